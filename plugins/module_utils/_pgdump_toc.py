# Copyright: Contributors to the odkops.central collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Header and table of contents of a pg_dump archive, versions 1.12 to 1.16.

Source of the format: PostgreSQL, src/bin/pg_dump/pg_backup_archiver.c (ReadHead, ReadToc), its
header file for the versions (K_VERS_*), and pg_backup_custom.c and pg_backup_directory.c
(_ReadExtraToc). What the versions brought: 1.12 an entry for each large object (PostgreSQL 9.0),
1.13 a fixed search_path (10.3), 1.14 the table access method (12), 1.15 the compression algorithm
(16), 1.16 the kind of relation (17).

An archive has no checksum, so everything in it that has only a few legal values is held against them.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass

from ansible_collections.odkops.central.plugins.module_utils._errors import CentralError
from ansible_collections.odkops.central.plugins.module_utils._pgdump_checks import check_toc
from ansible_collections.odkops.central.plugins.module_utils._pgdump_entry import TocEntry
from ansible_collections.odkops.central.plugins.module_utils._pgdump_input import ArchiveInput, corrupt

MAGIC = b"PGDMP"

Version = tuple[int, int]
OLDEST: Version = (1, 12)
NEWEST: Version = (1, 16)

CUSTOM = 1
DIRECTORY = 5
# What the header of a dump in the directory format says: that it is a tar archive (_CloseArchive there).
_TAR = 3

# Compression algorithms of version 1.15 (common/compression.h).
ALGORITHMS = {0: "none", 1: "gzip", 2: "lz4", 3: "zstd"}

# No genuine table of contents comes near these: Central's has about 1,000 entries in 170 KB.
MAXIMUM_ENTRIES = 50_000
MAXIMUM_TOC_BYTES = 16 * 1024 * 1024

# pg_dump numbers the objects of a database from 1, those of the system too; pg_restore makes a table as long as the
# largest number.
_MAXIMUM_ID = 2**24

# What a name may have in bytes, and a function's name with the types of its arguments.
_NAME = 256
_TAG = 64 * 1024

# The state of an entry's data in the custom format.
_NO_DATA = 3

# SECTION_NONE, PRE_DATA, DATA, POST_DATA
_SECTIONS = frozenset({1, 2, 3, 4})
# pg_class.relkind as a number (0 where the entry is no relation)
_RELKINDS = frozenset({0, *map(ord, "rvmfpSiItc")})
_DIGITS = re.compile(r"[0-9]{1,10}\Z")
# PostgreSQL's descriptions of entries are words in capitals ("TABLE DATA", "FK CONSTRAINT").
_DESCRIPTION = re.compile(r"[A-Z][A-Z ]{2,40}\Z")
_VERSION = re.compile(r"(?P<major>[0-9]{1,3})(\.[0-9]{1,3}|devel|beta[0-9]|rc[0-9])")
_ENCODING = re.compile(r"SET client_encoding = '(?P<name>[A-Za-z0-9_]{2,32})';\n\Z")

# The major versions of PostgreSQL whose pg_dump writes a version of the format.
_MAJORS = {12: (9, 10), 13: (9, 11), 14: (12, 15), 15: (16, 16), 16: (17, 999)}

# What PostgreSQL calls its encodings (common/encnames.c), and Python's names of those that are looked into.
_ENCODINGS = frozenset(
    (
        "SQL_ASCII EUC_JP EUC_CN EUC_KR EUC_TW EUC_JIS_2004 UTF8 MULE_INTERNAL LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 "
        "LATIN7 LATIN8 LATIN9 LATIN10 WIN1250 WIN1251 WIN1252 WIN1253 WIN1254 WIN1255 WIN1256 WIN1257 WIN1258 WIN866 "
        "WIN874 KOI8R KOI8U ISO_8859_5 ISO_8859_6 ISO_8859_7 ISO_8859_8 SJIS BIG5 GBK UHC GB18030 JOHAB SHIFT_JIS_2004"
    ).split()
)
_CODECS = {"UTF8": "utf-8", "LATIN1": "iso8859-1", "LATIN9": "iso8859-15", "WIN1252": "cp1252", "WIN1251": "cp1251"}


@dataclass(frozen=True)
class Header:
    """What an archive says of itself before its table of contents."""

    #: version of the archive's format
    version: Version
    #: CUSTOM or DIRECTORY
    container: int
    #: ``none``, ``gzip``, ``lz4`` or ``zstd``
    compression: str
    #: when the dump began, by the clock and in the time zone of the host that dumped: ``YYYY-MM-DDTHH:MM:SS``
    created: str
    #: name of the database
    database: str
    #: version of the server that was dumped, as it calls itself
    server_version: str
    #: version of the pg_dump that wrote the archive
    dump_version: str

    @property
    def version_text(self) -> str:
        """The version as PostgreSQL's messages write it, for example ``1.14``."""
        return f"{self.version[0]}.{self.version[1]}"


def read_header(source: ArchiveInput, container: int = CUSTOM) -> Header:
    """Read the header, and set the sizes of integers and offsets of `source`.

    :param container: the format that is expected
    :raises CentralError: ``corrupt``, ``truncated``, ``archive_too_new``, ``archive_too_old``,
        ``unsupported_compression``, ``not_a_central_backup``
    """
    source.where = "inside the header of the archive"
    if source.take(len(MAGIC)) != MAGIC:
        raise corrupt("the archive does not begin with PGDMP")
    major, minor, revision = source.take(3)
    version = (major, minor)
    if version > NEWEST:
        raise CentralError(
            "archive_too_new",
            f"The archive has version {major}.{minor}, and this collection reads up to {NEWEST[0]}.{NEWEST[1]} "
            "(PostgreSQL 18). Install a newer odkops.central; the backup itself may be good.",
            archive_version=f"{major}.{minor}",
        )
    if version < OLDEST:
        raise CentralError(
            "archive_too_old",
            f"The archive has version {major}.{minor}, older than any that Central has made "
            f"({OLDEST[0]}.{OLDEST[1]}, PostgreSQL 9.6). Check where the file comes from.",
            archive_version=f"{major}.{minor}",
        )
    source.integer_size, source.offset_size, found = source.take(3)
    if revision != 0 or not 1 <= source.integer_size <= 8 or not 1 <= source.offset_size <= 8:
        raise corrupt("the sizes in its header are impossible")
    expected = _TAR if container == DIRECTORY else container
    if found != expected:
        raise CentralError(
            "not_a_central_backup",
            f"This is a pg_dump archive of another kind (format {found}, expected {expected}). "
            "Central's backups are in the custom format.",
        )
    compression = _read_compression(source, version)
    created = _read_time(source)
    database = source.string(4096) or ""
    server = source.string(256) or ""
    dumper = source.string(256) or ""
    server_major, dumper_major = _major(server), _major(dumper)
    if not database or not server_major or not dumper_major:
        raise corrupt("its header names no database or no version of PostgreSQL")
    oldest, newest = _MAJORS[minor]
    if not oldest <= dumper_major <= newest or server_major > dumper_major:
        raise corrupt(f"its header says that pg_dump {dumper} wrote version {major}.{minor} of a server {server}")
    return Header(version, container, compression, created, database, server, dumper)


def _major(version: str) -> int:
    """The first number of a version of PostgreSQL, or 0 where it is none."""
    found = _VERSION.match(version)
    return int(found["major"]) if found else 0


def _read_compression(source: ArchiveInput, version: Version) -> str:
    if version < (1, 15):
        level = source.integer()
        if not -1 <= level <= 9:
            raise corrupt(f"its compression level is {level}")
        return "gzip" if level else "none"
    algorithm = source.byte()
    if algorithm not in ALGORITHMS:
        raise CentralError(
            "unsupported_compression",
            f"The archive is compressed by method {algorithm}, which PostgreSQL 18 and older do not have. "
            "Install a newer odkops.central, or the file is damaged.",
        )
    return ALGORITHMS[algorithm]


def _read_time(source: ArchiveInput) -> str:
    """struct tm: seconds, minutes, hours, day, month from 0, years since 1900, daylight saving."""
    second, minute, hour, day, month, year, saving = (source.integer() for _count in range(7))
    fits = 0 <= second <= 60 and 0 <= minute <= 59 and 0 <= hour <= 23 and 1 <= day <= 31
    fits = fits and 0 <= month <= 11 and 100 <= year <= 300 and -1 <= saving <= 1
    if not fits or day > calendar.monthrange(year + 1900, month + 1)[1]:
        raise corrupt("the time in its header is impossible")
    return f"{year + 1900:04d}-{month + 1:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}"


def read_toc(source: ArchiveInput, header: Header) -> list[TocEntry]:
    """Read the table of contents that follows the header.

    :raises CentralError: ``corrupt``, ``truncated``
    """
    source.where = "inside the table of contents"
    count = source.integer()
    if not 0 < count <= MAXIMUM_ENTRIES:
        raise corrupt(f"its table of contents claims {count} entries")
    end = source.offset + MAXIMUM_TOC_BYTES
    entries: list[TocEntry] = []
    seen: set[int] = set()
    for _number in range(count):
        entry = _read_entry(source, header, end)
        if entry.dump_id in seen:
            raise corrupt(f"its table of contents has the entry {entry.dump_id} twice")
        seen.add(entry.dump_id)
        entries.append(entry)
        if entry.description == "ENCODING":
            source.encoding = read_encoding(entry)
    check_toc(header.database, entries)
    return entries


def read_encoding(entry: TocEntry) -> str | None:
    """Python's name of the encoding of the archive's strings and data, from its entry ``ENCODING``.

    :returns: for example ``utf-8``; None for an encoding that this collection does not look into
    :raises CentralError: ``corrupt``
    """
    found = _ENCODING.match(entry.definition)
    if found is None or found["name"] not in _ENCODINGS:
        raise corrupt("its table of contents has no proper encoding")
    return _CODECS.get(found["name"])


def _read_entry(source: ArchiveInput, header: Header, end: int) -> TocEntry:
    """Read an entry; no string in it may reach beyond the offset `end`."""
    dump_id = source.integer()
    had_dumper = source.integer()
    if not 0 < dump_id <= _MAXIMUM_ID or had_dumper not in (0, 1):
        raise corrupt(f"an entry of its table of contents is impossible, before byte {source.offset}")
    catalogue, oid = source.string(16), source.string(16)
    tag = source.string(_TAG)
    description = source.string(64)
    section = source.integer()
    definition = source.string(end - source.offset)
    drop_statement = source.string(end - source.offset)
    copy_statement = source.string(end - source.offset)
    namespace = source.string(_NAME)
    source.string(_NAME)  # the tablespace
    access_method = source.string(_NAME) if header.version >= (1, 14) else None
    relkind = source.integer() if header.version >= (1, 16) else 0
    owner = source.string(_NAME)
    with_oids = source.string(16)
    fits = catalogue is not None and oid is not None and _DIGITS.match(catalogue) and _DIGITS.match(oid)
    if not fits or tag is None or description is None or not _DESCRIPTION.match(description):
        raise corrupt(f"the entry {dump_id} of its table of contents has no proper description")
    if section not in _SECTIONS or relkind not in _RELKINDS or with_oids not in ("true", "false"):
        raise corrupt(f"the entry {dump_id} of its table of contents has an impossible value")
    _read_dependencies(source, dump_id, end)
    extra = source.offset
    file_name, position = "", 0
    if header.container == DIRECTORY:
        file_name = source.string(_NAME) or ""
        has_data = bool(file_name)
    else:
        state, position = source.data_offset()
        has_data = state != _NO_DATA
    if has_data != bool(had_dumper):
        raise corrupt(f"the entry {dump_id} of its table of contents contradicts itself about its data")
    return TocEntry(
        dump_id=dump_id,
        description=description,
        tag=tag,
        namespace=namespace or "",
        owner=owner or "",
        definition=definition or "",
        copy_statement=copy_statement or "",
        has_data=has_data,
        file_name=file_name,
        drop_statement=drop_statement or "",
        position=position,
        catalogue=int(catalogue or 0),
        oid=int(oid or 0),
        section=section,
        access_method=access_method or "",
        extra=(extra, source.offset),
    )


def _read_dependencies(source: ArchiveInput, dump_id: int, end: int) -> None:
    while source.offset < end:
        dependency = source.string(16)
        if dependency is None:
            return
        # pg_dump counts them from one (createDumpId), and pg_restore 17 refuses zero.
        if not _DIGITS.match(dependency) or dependency[0] == "0":
            raise corrupt(f"the entry {dump_id} of its table of contents depends on nothing that is a number")
    raise corrupt(f"its table of contents is longer than {MAXIMUM_TOC_BYTES} bytes, at the entry {dump_id}")
