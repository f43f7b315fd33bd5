// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

module.exports = {
  up: async (query) => {
    await query('ALTER TABLE blobs ADD COLUMN size integer');
    await query('UPDATE blobs SET size = octet_length(content) WHERE content IS NOT NULL');
  },
};
