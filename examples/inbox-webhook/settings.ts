// Owns what the example is told by its environment. No value is ever printed: two are secrets.

export interface Settings {
  readonly databaseUrl: string;
  /** Shared with the sender, who signs each event with it. */
  readonly secret: string;
  readonly port: number;
}

/** Ends the process with exit code 1 and a list where something is wrong. */
export function settings(env: Readonly<Record<string, string | undefined>>): Settings {
  const { DATABASE_URL = "", WEBHOOK_SECRET = "", PORT = "3003" } = env;
  const problems: string[] = [];
  if (!/^postgres(ql)?:\/\//.test(DATABASE_URL)) {
    problems.push("DATABASE_URL must be a postgres://… URL");
  }
  if (WEBHOOK_SECRET.length < 16) problems.push("WEBHOOK_SECRET must have 16 characters or more");
  if (!/^\d{1,5}$/.test(PORT) || Number(PORT) > 65_535) {
    problems.push("PORT must be a whole number from 0 to 65535");
  }
  if (problems.length > 0) {
    console.error(`the environment is not right:\n${problems.map((is) => `  - ${is}`).join("\n")}`);
    process.exit(1);
  }
  return { databaseUrl: DATABASE_URL, secret: WEBHOOK_SECRET, port: Number(PORT) };
}
