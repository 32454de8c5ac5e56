// Owns what the services are told by their environment. Says everything that is wrong at once, and
// never repeats a value that may hold a password.

export interface Config {
  readonly databaseUrl: string;
  readonly brokers: readonly string[];
  /** Kafka must allow it: brokers usually refuse less than 6,000. */
  readonly sessionTimeoutMs: number;
  readonly topic: string;
  /** The consumer's name, under which its positions are kept; it is never changed. */
  readonly consumer: string;
  readonly host: string;
  readonly port: number;
  /** From the signal to the end of the process. */
  readonly stopDeadlineMs: number;
}

export class BadEnvironment extends Error {
  constructor(problems: readonly string[]) {
    super(
      `the environment is not right:\n${problems.map((problem) => `  - ${problem}`).join("\n")}`,
    );
  }
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Throws BadEnvironment. */
export function readConfig(env: Environment, defaults: { readonly port: number }): Config {
  const problems: string[] = [];
  const required = (name: string, is: string, fits: (text: string) => boolean): string => {
    const text = env[name] ?? "";
    if (text === "") problems.push(`${name} is missing: ${is}`);
    else if (!fits(text)) problems.push(`${name} must be ${is}`);
    return text;
  };
  const text = (name: string, otherwise: string, is: string, pattern: RegExp): string => {
    const found = env[name] || otherwise;
    if (!pattern.test(found)) problems.push(`${name} must be ${is}, not "${found}"`);
    return found;
  };
  const integer = (name: string, otherwise: number, min: number, max: number): number => {
    const found = env[name] || String(otherwise);
    const value = /^\d+$/.test(found) ? Number(found) : Number.NaN;
    if (!(value >= min && value <= max)) {
      problems.push(`${name} must be a whole number from ${min} to ${max}, not "${found}"`);
    }
    return value;
  };
  const config: Config = {
    databaseUrl: required("DATABASE_URL", "a postgres://… URL", isPostgresUrl),
    brokers: required("KAFKA_BROKERS", "host:port, or several with commas between", areBrokers)
      .split(",")
      .map((broker) => broker.trim()),
    sessionTimeoutMs: integer("KAFKA_SESSION_TIMEOUT_MS", 30_000, 1_000, 300_000),
    topic: text("ORDERS_TOPIC", "orders.placed", "a topic's name", /^[\w.-]{1,249}$/),
    consumer: text("INVOICE_CONSUMER", "invoices", "a consumer's name", /^[\w.-]{1,100}$/),
    host: text("HOST", "127.0.0.1", "an address to listen on", /^[\w.:-]+$/),
    port: integer("PORT", defaults.port, 0, 65_535),
    stopDeadlineMs: integer("STOP_DEADLINE_MS", 10_000, 1_000, 300_000),
  };
  if (problems.length > 0) throw new BadEnvironment(problems);
  return config;
}

function isPostgresUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  return ["postgres:", "postgresql:"].includes(new URL(text).protocol);
}

function areBrokers(text: string): boolean {
  return text.split(",").every((broker) => /^[^\s:]+:\d{1,5}$/.test(broker.trim()));
}
