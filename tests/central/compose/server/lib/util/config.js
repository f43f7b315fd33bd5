// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { readFileSync } = require('node:fs');
const { join } = require('node:path');

// Written from the environment at every start by start-odk.sh.
const settings = JSON.parse(readFileSync(join(__dirname, '../../config/local.json'), 'utf8')).default;

module.exports = {
  ...settings,
  get oidcEnabled() { return settings.oidc.enabled === true; },
};
