// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { once } = require('node:events');

// Waits for a child. An exit code other than 0 is thrown, with the code as `exitcode`.
const finished = async (child) => {
  const [code] = await once(child, 'close');
  if (code === 0) return;
  const error = new Error(`process exited with code: ${code}: ${child.spawnargs.join(' ')}`);
  error.exitcode = code;
  throw error;
};

module.exports = { finished };
