// What a deployment does before the service starts: Oncebox's tables, and the one of payments.

import { migrate } from "@oncebox/postgres";
import pg from "pg";
import { settings } from "./settings.ts";

const pool = new pg.Pool({ connectionString: settings(process.env).databaseUrl });
await migrate(pool);
await pool.query(
  "CREATE TABLE IF NOT EXISTS balances (account text PRIMARY KEY, cents bigint NOT NULL)",
);
await pool.end();
