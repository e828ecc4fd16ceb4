/**
 * The public API: configure a run, run it in the engine's thread, read the reports. The command line uses nothing
 * else of the program, apart from errors, the logger's interface and the texts of reports.
 */
export * from "./errors.js";
export { createMemoryLogger, type LogFields, type Logger, type LogLevel, SILENT_LOGGER } from "./logging.js";
export type * from "./contract.js";
export type { DevicesReport } from "./report/devices-report.js";
export { tokenRowLength } from "./calibration/token-tensor.js";
export { type EngineOptions, runInEngine } from "./driver/engine.js";
export { createStopBuffer, type EngineCommand, type EngineCommands, requestStop } from "./driver/engine-protocol.js";
export {
  type Note,
  parseTokenSource,
  type Resolved,
  resolveEvaluationConfig,
  resolveRunConfig,
  type Surroundings,
} from "./config/resolve.js";
export { type ComparisonFlags, resolveComparison } from "./config/comparison.js";
export { checkModelDirectory } from "./config/rules.js";
export type { EvaluationFlags, RunFlags } from "./config/schema.js";
