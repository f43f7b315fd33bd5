// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const { Readable } = require('node:stream');

// One stream after the other, as one stream. An error of any of them is an error of the whole.
const sequence = (...streams) => Readable.from((async function* chunks() {
  for (const stream of streams) yield* stream;
})());

// Reads at least `size` bytes (fewer at the end) and returns [them, a stream that has all bytes again].
const peek = async (stream, size) => {
  const source = stream[Symbol.asyncIterator]();
  const held = [];
  let length = 0;
  while (length < size) {
    const { value, done } = await source.next();
    if (done) break;
    held.push(value);
    length += value.length;
  }
  const start = Buffer.concat(held);
  const whole = Readable.from((async function* chunks() {
    if (start.length > 0) yield start;
    for (;;) {
      const { value, done } = await source.next();
      if (done) return;
      yield value;
    }
  })());
  return [start.subarray(0, size), whole];
};

const buffered = async (stream, limit, tooLarge) => {
  const chunks = [];
  let length = 0;
  for await (const chunk of stream) {
    length += chunk.length;
    if (length > limit) throw tooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
};

module.exports = { sequence, peek, buffered };
