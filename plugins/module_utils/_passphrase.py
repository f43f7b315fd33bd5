# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passphrases: where they come from, and which are too weak to keep a Central's data secret."""

from __future__ import annotations

from ansible_collections.odkops.central.plugins.module_utils._errors import (
    CentralError,
    reading_error,
)

#: Central's format derives its key with 10,000 rounds of PBKDF2 only, a thousandth of a second of
#: one core for each guess, so the passphrase itself has to be long.
MINIMUM_LENGTH = 16

#: Fewer different characters than this are a pattern ("aaaaaaaaaaaaaaaa", "abcabcabcabcabcabc").
MINIMUM_DISTINCT = 6

#: No passphrase is longer than this: a larger passphrase_file is some other file.
MAXIMUM_BYTES = 4096


def read_secret_file(path: str, what: str) -> str:
    """Read a secret that is kept as the one line of a file.

    :param what: the name of the secret in messages, such as ``passphrase``
    :returns: the line without its end; possibly empty
    :raises CentralError: ``unreadable``, ``bad_passphrase``
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAXIMUM_BYTES + 3)
    except OSError as error:
        raise reading_error(error, path) from error
    if len(content) > MAXIMUM_BYTES + 2:
        raise CentralError(
            "bad_passphrase", f"{path} is longer than {MAXIMUM_BYTES} bytes, so it is no {what} file. Check the path."
        )
    for end in (b"\r\n", b"\n"):
        if content.endswith(end):
            content = content[: -len(end)]
            break
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CentralError(
            "bad_passphrase", f"{path} is not UTF-8 text, so it is no {what} file. Check the path."
        ) from error


def check_form(passphrase: str, where: str) -> None:
    """Refuse what Central, openssl or a terminal would not take as one and the same passphrase.

    :raises CentralError: ``bad_passphrase``
    """
    if any(character in passphrase for character in "\0\r\n"):
        raise CentralError(
            "bad_passphrase",
            f"The passphrase in {where} has a line break or a NUL character in it, which neither Central nor openssl "
            "can be given. Use one line of text.",
        )
    try:
        encoded = passphrase.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CentralError("bad_passphrase", f"The passphrase in {where} cannot be written as UTF-8.") from error
    if len(encoded) > MAXIMUM_BYTES:
        raise CentralError("bad_passphrase", f"The passphrase in {where} is longer than {MAXIMUM_BYTES} bytes.")


def read_passphrase(passphrase: object, passphrase_file: str | None) -> str | None:
    """The passphrase that was given, by value or by the path of a file that holds it.

    :param passphrase: a text or None; anything else is refused, since it may be another one than was meant
    :returns: the passphrase, or None where none was given. An empty value is none, as in Central.
    :raises CentralError: ``unreadable``, ``bad_passphrase``
    """
    if passphrase_file is not None:
        found = read_secret_file(passphrase_file, "passphrase")
        if not found:
            raise CentralError(
                "bad_passphrase",
                f"{passphrase_file} is empty. Write the passphrase into it, or leave passphrase_file out "
                "for a backup that has none.",
            )
        check_form(found, passphrase_file)
        return found
    if passphrase is None or passphrase == "":
        return None
    if not isinstance(passphrase, str):
        raise CentralError(
            "bad_passphrase",
            "The option passphrase is not a text but a number or the like, which YAML may have changed. Put it in quotes.",
        )
    check_form(passphrase, "the option passphrase")
    return passphrase


def check_strength(passphrase: str, allow_weak: bool) -> None:
    """Refuse a passphrase that can be guessed in hours, unless that was asked for.

    :raises CentralError: ``weak_passphrase``
    """
    if allow_weak:
        return
    if len(passphrase) < MINIMUM_LENGTH or len(set(passphrase)) < MINIMUM_DISTINCT:
        raise CentralError(
            "weak_passphrase",
            f"The passphrase is too weak for Central's backup format, which slows a guesser down very little: use "
            f"at least {MINIMUM_LENGTH} characters and {MINIMUM_DISTINCT} different ones, for example what "
            "'openssl rand -base64 24' prints. allow_weak_passphrase=true takes it all the same.",
        )
