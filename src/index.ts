/**
 * The public API. The command line uses nothing else of the program, apart from the tables of options, errors, the
 * logger's interface and the texts of reports.
 */
export * from "./api/api.js";
export * from "./errors.js";
export { createMemoryLogger, type LogFields, type Logger, type LogLevel, SILENT_LOGGER } from "./logging.js";
export type * from "./contract.js";
export type { BlockRequest, CutRequest, ExpertRequest, WidthRequest } from "./options/cut-options.js";
export type { ComparisonRequest } from "./options/comparison-options.js";
export type { EvaluationRequest, InspectionRequest } from "./options/evaluation-options.js";
export type { GateRequest, LimitRequest } from "./options/gate-options.js";
export type { GenerationRequest } from "./options/generation-options.js";
export type { MaskRequest, VerificationRequest } from "./options/mask-options.js";
export type { RunRequest } from "./options/run-options.js";
export type { DevicesReport } from "./report/devices-report.js";
export type { FamiliesReport } from "./report/families.js";
export type { MethodOption, MethodReport } from "./report/method-details.js";
export type { MethodsReport } from "./report/methods.js";
export type { RecipesReport } from "./report/recipes.js";
