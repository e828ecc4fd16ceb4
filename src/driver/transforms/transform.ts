/**
 * What may happen around the solving of a group of linears, without the loop over groups knowing of it: channels that
 * change places, another target than the dense weight, experts that starve, measuring. Order matters; session.ts sets it.
 */
import type { InputGroup } from "../../model/architecture.js";
import type { GroupAtWork, LinearHooks } from "../group-at-work.js";
import type { BlockAtWork } from "../run.js";
import type { StageStatistics } from "../statistics-source.js";

export interface BlockTransform extends LinearHooks {
  readonly name: string;
  /** Before a stage's statistics are collected: the hidden states still stand in front of the block. */
  openStage?(block: BlockAtWork, groups: readonly InputGroup[]): Promise<void>;
  /** Which solver a group gets, before its statistics are finished: those of one that is not solved by the method are not. */
  admit?(work: GroupAtWork, statistics: StageStatistics): void;
  /** Statistics are there and nothing is solved yet: weights and statistics may be changed together. */
  before?(work: GroupAtWork): Promise<void>;
  /** All linears of the group are solved: let go of what `before` took. */
  after?(work: GroupAtWork): void;
  closeStage?(): void;
}
