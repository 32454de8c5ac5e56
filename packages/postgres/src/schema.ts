/** The schema's name: the only text of the user's that becomes part of a statement. */
import type { Rule } from "@oncebox/core";

export const defaultSchema = "oncebox";

export const aSchemaName: Rule = {
  is: "a schema name: 1 to 63 characters of a-z 0-9 _, not starting with a digit",
  fits: (value) => typeof value === "string" && /^[a-z_][a-z0-9_]{0,62}$/.test(value),
  optional: true,
};
