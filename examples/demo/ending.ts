// Owns how a run of the demo ends before its time: what it gives up with, and what is taken down.

/** The demo cannot show what it is for; says why. */
export class DemoFailure extends Error {}

/** Done in reverse order at the end, however far the beginning came. */
export type Undo = (() => Promise<unknown>)[];
