/** Gradients of the norm of a block's output, of each sequence by itself, against differences in float64. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { borrowed } from "../../src/array.js";
import { buildBlockGraph } from "../../src/forward/block-graph.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { lookUp } from "../../src/look-up.js";
import { openModel } from "../../src/model/open-model.js";
import { BlockGradients } from "../../src/training/model-gradients.js";
import { regionalGradients } from "../../src/training/regional-gradients.js";
import { fixturePath } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { float64Model, positionTensors } from "../helpers/float64-model.js";
import { normals } from "../reference/random.js";
import { interpret, type Tensor } from "../reference/graph-interpreter.js";

const [SEQUENCES, TOKENS] = [3, 6];
const STEP = 1e-5;

for (const folder of ["llama", "gpt_neox", "mixtral", "gemma3n_text"]) {
  test(`${folder}: the root mean square of derivatives of ‖output‖, sequence by sequence`, async (t) => {
    await using model = await openModel(fixturePath(folder));
    const { architecture } = model;
    await using runner = new BlockRunner(architecture);
    await using gradients = new BlockGradients(runner, architecture);
    const { width, hidden: counted } = architecture.state;
    await using states = await HiddenStates.create({
      ...{ sequences: SEQUENCES, tokens: TOKENS, width, memoryBytes: 2 ** 20 },
      scratchFile: join(temporaryDirectory(t), "states"),
    });
    const hidden = normals(SEQUENCES * TOKENS * width, 3);
    hidden.forEach((value, i) => (hidden[i] = value * (1 + Math.floor(i / states.sequenceLength)))); // unlike each other
    await states.write(0, borrowed("hidden", hidden, [SEQUENCES * TOKENS, width]));
    const block = architecture.blocks[1] ?? assert.fail();
    const weights = await readBlockWeights(model.checkpoint, block);
    const roles = new Set(block.groups.flatMap(({ linears }) => linears.map(({ role }) => role)));
    const heard: number[] = [];
    const found = await regionalGradients({
      ...{ block, weights, states, runner, gradients, roles, onSequence: (done: number) => void heard.push(done) },
    });
    assert.deepEqual(heard, [1, 2, 3]);
    assert.deepEqual([...found.keys()].sort(), [...roles].sort());

    const exact = (await float64Model(model)).blocks[1] ?? assert.fail();
    const graph = buildBlockGraph(architecture, block, { hidden: true, taps: undefined });
    const positions = positionTensors(architecture, TOKENS);
    const normOf = (sequence: number): number => {
      const own = hidden.subarray(sequence * states.sequenceLength, (sequence + 1) * states.sequenceLength);
      const entering: Tensor = { shape: [TOKENS, width], values: Float64Array.from(own) };
      const { values } = lookUp(interpret(graph, new Map([...positions, ...exact, ["hidden", entering]])), "output");
      return Math.sqrt(values.reduce((sum, value, i) => sum + (i % width < counted ? value * value : 0), 0));
    };
    for (const [role, values] of found) {
      const largest = Math.max(...values);
      const place = values.indexOf(largest);
      const { values: own } = lookUp(exact, role);
      const weight = own[place] as number;
      let squares = 0;
      for (let sequence = 0; sequence < SEQUENCES; sequence++) {
        const at = (moved: number): number => {
          own[place] = weight + moved;
          return normOf(sequence);
        };
        squares += ((at(STEP) - at(-STEP)) / (2 * STEP)) ** 2;
      }
      own[place] = weight;
      const expected = Math.sqrt(squares / SEQUENCES);
      assert.ok(Math.abs(largest - expected) < 1e-4 * expected, `${role}: ${largest}, differences say ${expected}`);
    }
  });
}
