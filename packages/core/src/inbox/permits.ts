/** A counted right to do something at the same time as others, given out in the order asked for. */
export interface Permits {
  /** Resolves to the function that gives the permit back, or to null when `signal` is aborted first. */
  readonly acquire: (signal: AbortSignal) => Promise<(() => void) | null>;
  /** As `acquire`, of every permit there is: resolves when nothing else is going on. */
  readonly acquireAll: (signal: AbortSignal) => Promise<(() => void) | null>;
}

export function permits(count: number): Permits {
  let free = count;
  const waiting: (() => void)[] = [];
  const granted = () => {
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      const next = waiting.shift();
      if (next === undefined) free += 1;
      else next();
    };
  };
  const acquire = (signal: AbortSignal) =>
    new Promise<(() => void) | null>((resolve) => {
      if (signal.aborted) return resolve(null);
      if (free > 0) {
        free -= 1;
        return resolve(granted());
      }
      const given = () => {
        signal.removeEventListener("abort", gone);
        resolve(granted());
      };
      const gone = () => {
        waiting.splice(waiting.indexOf(given), 1);
        resolve(null);
      };
      signal.addEventListener("abort", gone, { once: true });
      waiting.push(given);
    });
  // One at a time: two that each held a part would wait for each other.
  let turn: Promise<unknown> = Promise.resolve();
  const collect = async (signal: AbortSignal) => {
    const held: (() => void)[] = [];
    const release = () => {
      for (const one of held) one();
    };
    while (held.length < count) {
      const one = await acquire(signal);
      if (one === null) {
        release();
        return null;
      }
      held.push(one);
    }
    return release;
  };
  const acquireAll = (signal: AbortSignal) => {
    const mine = turn.then(() => collect(signal));
    turn = mine;
    return mine;
  };
  return { acquire, acquireAll };
}
