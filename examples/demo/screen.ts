// Owns what a person sees: lines that stay, and one line of progress that is written over and over
// on a terminal, or printed from time to time elsewhere.

const clearLine = "\r\u001b[2K";
const plainEveryMs = 2_000;
const terminalEveryMs = 100;

export interface Screen {
  /** Whether somebody looks on: progress is written over and over. */
  readonly terminal: boolean;
  /** Prints a line that stays. */
  readonly say: (line: string) => void;
  /** Shows what `line` answers until `close`. */
  readonly follow: (line: () => string) => void;
  /** Shows the last progress once more and ends it. Harmless when called again. */
  readonly close: () => void;
}

const barCells = 20;

/** A bar that is filled to this share (0 to 1). */
export function bar(share: number): string {
  const full = Math.round(Math.min(1, Math.max(0, share)) * barCells);
  return "█".repeat(full) + "░".repeat(barCells - full);
}

export function openScreen(out: NodeJS.WriteStream): Screen {
  const terminal = out.isTTY === true;
  let progress: (() => string) | undefined;
  let shown = "";
  let timer: NodeJS.Timeout | undefined;
  const fitting = (line: string) => line.slice(0, (out.columns || 80) - 1);
  const show = () => {
    if (progress === undefined) return;
    const line = progress();
    if (!terminal && line === shown) return;
    shown = line;
    out.write(terminal ? `${clearLine}${fitting(line)}` : `${line}\n`);
  };
  return {
    terminal,
    say: (line) => {
      const over = terminal && progress !== undefined;
      out.write(over ? `${clearLine}${line}\n` : `${line}\n`);
      if (over) show();
    },
    follow: (line) => {
      progress = line;
      timer = setInterval(show, terminal ? terminalEveryMs : plainEveryMs);
    },
    close: () => {
      clearInterval(timer);
      show();
      if (terminal && progress !== undefined) out.write("\n");
      progress = undefined;
    },
  };
}
