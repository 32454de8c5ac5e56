/** Our structural type takes any schema that follows the published one (https://standardschema.dev). */
import { type Codec, defineTopic, json } from "@oncebox/core";
import type { StandardSchemaV1 } from "@standard-schema/spec";

declare const schema: StandardSchemaV1<{ total: string }, { total: number }>;

const codec: Codec<{ total: string }, { total: number }> = json(schema);
const topic = defineTopic({ name: "orders.placed", value: codec });
topic.message({ key: null, value: { total: "3" } });
// @ts-expect-error the input of the schema is text
topic.message({ key: null, value: { total: 3 } });
const total: number = topic.decode(null).total;
total.toFixed();
