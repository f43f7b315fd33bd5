// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

// Lays out lib/model/migrations and sentry-versions for one Central version: run when the image is built (newest
// version) and at each start (DEMO_CENTRAL_VERSION). Each file is a real step where lib/model/steps has one of that
// name; the others stand for what the base schema holds already.

const { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { join } = require('node:path');

const root = join(__dirname, '../..');
const directory = join(root, 'lib/model/migrations');
const versions = JSON.parse(readFileSync(join(root, 'lib/model/versions.json'), 'utf8'));
const wanted = process.env.DEMO_CENTRAL_VERSION || versions.newest;
const version = versions.known[wanted];
if (version === undefined) {
  console.error(`DEMO_CENTRAL_VERSION=${wanted}: known are ${Object.keys(versions.known).join(', ')}`);
  process.exit(1);
}

const names = readFileSync(join(root, 'lib/model/migrations.txt'), 'utf8')
  .split('\n').filter((line) => /^\d/.test(line))
  .concat(version.more ?? [])
  .filter((name) => name <= version.last);
rmSync(directory, { recursive: true, force: true });
mkdirSync(directory, { recursive: true });
for (const name of names) {
  const step = join(root, 'lib/model/steps', name);
  if (existsSync(step)) copyFileSync(step, join(directory, name));
  else writeFileSync(join(directory, name), "'use strict';\n\n// Part of the base schema.\nmodule.exports = { up: async () => {} };\n");
}

const sentry = join(root, 'sentry-versions');
mkdirSync(sentry, { recursive: true });
for (const part of ['central', 'server', 'client']) writeFileSync(join(sentry, part), `${wanted}-demo\n`);
console.log(`version ${wanted}: ${names.length} migrations`);
