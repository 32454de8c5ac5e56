/** A counted right to do something at the same time as others, given out in the order asked for. */
export interface Permits {
  /** Resolves to the function that gives the permit back, or to null when `signal` is aborted first. */
  readonly acquire: (signal: AbortSignal) => Promise<(() => void) | null>;
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
  return { acquire };
}
