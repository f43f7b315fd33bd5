// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { requireVerb } = require('../http/auth');
const { encryptedDump } = require('../util/backup');

module.exports = (service) => {
  service.route('POST', '/backup', async (context, response) => {
    await requireVerb(context, 'backup.run', 'config');
    response.setHeader('Content-Disposition', `attachment; filename="central-backup-${new Date().toISOString()}.pgdump.enc.bin"`);
    response.setHeader('Content-Type', 'application/octet-stream');
    return encryptedDump(context.body.passphrase);
  });
};
