import { library } from "../../tsup.config.ts";

export default library({ index: "src/index.ts", knex: "src/knex.ts" });
