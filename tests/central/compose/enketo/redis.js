// Copyright: Contributors to the odkops.central collection
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later
'use strict';

const net = require('node:net');

// One connection, commands answered in order. It is made anew when it was lost.
class Redis {
  constructor({ host, port }) {
    Object.assign(this, { host, port: Number(port), waiting: [], buffer: Buffer.alloc(0), socket: undefined });
  }

  connect() {
    const socket = net.connect(this.port, this.host);
    const lost = (error) => {
      if (this.socket !== socket) return;
      this.socket = undefined;
      this.buffer = Buffer.alloc(0);
      for (const { reject } of this.waiting.splice(0)) reject(error ?? new Error('connection to Redis lost'));
    };
    socket.on('data', (chunk) => {
      this.buffer = Buffer.concat([this.buffer, chunk]);
      for (let reply = this.reply(0); reply !== undefined; reply = this.reply(0)) {
        this.buffer = this.buffer.subarray(reply.end);
        const { resolve, reject } = this.waiting.shift();
        if (reply.value instanceof Error) reject(reply.value); else resolve(reply.value);
      }
    });
    socket.on('error', lost);
    socket.on('close', () => lost());
    this.socket = socket;
  }

  // One reply that begins at `at`, or undefined while it is not there whole.
  reply(at) {
    const eol = this.buffer.indexOf('\r\n', at);
    if (eol < 0) return undefined;
    const line = this.buffer.toString('utf8', at + 1, eol);
    const end = eol + 2;
    switch (String.fromCharCode(this.buffer[at])) {
      case '+': return { value: line, end };
      case '-': return { value: new Error(line), end };
      case ':': return { value: Number(line), end };
      case '$': {
        const length = Number(line);
        if (length < 0) return { value: null, end };
        if (this.buffer.length < end + length + 2) return undefined;
        return { value: this.buffer.toString('utf8', end, end + length), end: end + length + 2 };
      }
      case '*': {
        const items = [];
        let next = end;
        for (let left = Number(line); left > 0; left -= 1) {
          const item = this.reply(next);
          if (item === undefined) return undefined;
          items.push(item.value);
          next = item.end;
        }
        return { value: items, end: next };
      }
      default: return { value: new Error('not a Redis reply'), end };
    }
  }

  command(...words) {
    if (this.socket === undefined) this.connect();
    const parts = words.map((word) => Buffer.from(String(word)));
    const request = [Buffer.from(`*${parts.length}\r\n`), ...parts.flatMap((part) => [Buffer.from(`$${part.length}\r\n`), part, Buffer.from('\r\n')])];
    return new Promise((resolve, reject) => {
      this.waiting.push({ resolve, reject });
      this.socket.write(Buffer.concat(request));
    });
  }
}

module.exports = { Redis };
