// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// No such migration exists: it stands for a Central newer than all others here.
module.exports = { up: (query) => query('CREATE TABLE demo_newer_central (id integer PRIMARY KEY)') };
