// Writes docs/families.md from the families' own descriptions; a test compares the two.
import { writeFileSync } from "node:fs";
import { describeFamilies, familiesDocument } from "../dist/src/report/families.js";

writeFileSync(new URL("../docs/families.md", import.meta.url), familiesDocument(describeFamilies()));
