// Owns the fault "isolation": fetches ask Kafka for what is not committed as well. Kafka's answers
// list no aborted transactions then, so what is left of the filter for them lets everything through.
// The byte is changed on its way out: there is no switch in the packages.

import { Socket } from "node:net";

const fetchKey = 1;
/** From this version on requests are "flexible", as ours are and kafkajs' are not. */
const flexible = 12;
// length 4, key 2, version 2, number 4, length of the client's name 2
const nameAt = 14;
// optional fields 1; replica, waiting time, least and most bytes 4 each
const isolationBehindName = 17;

/** From now on, for each connection of this process. */
export function askUncommitted(onBroken: () => void): void {
  const { write } = Socket.prototype;
  Socket.prototype.write = function (this: Socket, chunk: unknown, ...rest: unknown[]) {
    if (Buffer.isBuffer(chunk) && chunk.length > nameAt && chunk.readInt16BE(4) === fetchKey) {
      const at = nameAt + chunk.readInt16BE(nameAt - 2) + isolationBehindName;
      if (chunk.readInt16BE(6) >= flexible && chunk[at] === 1) {
        chunk[at] = 0;
        onBroken();
      }
    }
    return (write as (...args: unknown[]) => boolean).call(this, chunk, ...rest);
  };
}
