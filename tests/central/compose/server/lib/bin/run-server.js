// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { Service } = require('../http/server');
const config = require('../util/config');
const { makePool } = require('../util/db');

const service = new Service({ pool: makePool(config.database.maximumPoolSize), config });
for (const name of ['backup', 'sessions', 'users', 'config', 'projects', 'forms', 'submissions']) {
  require(`../resources/${name}`)(service);
}

service.listen(8383).then((server) => {
  console.log('server listening on port 8383');
  const stop = () => {
    server.close(() => process.exit(0));
    server.closeAllConnections?.();
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
});
