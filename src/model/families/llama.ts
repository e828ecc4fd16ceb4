/**
 * Llama: pre-norm blocks of grouped-query attention with rotary positions and a SiLU-gated MLP; also the many
 * checkpoints that only reuse its layout. Biases where the config has them, explicit head_dim, tied or own head.
 */
import { CheckpointError } from "../../errors.js";
import type {
  Architecture,
  BlockContext,
  BlockSpec,
  BlockTensor,
  HeadSpec,
  InputGroup,
  LinearSpec,
} from "../architecture.js";
import type { ModelConfig } from "../config.js";
import type { Family } from "./registry.js";
import { attention, flatten, linear, rmsNorm, silu, unflatten } from "../pieces.js";
import { readRotaryTable } from "../rotary.js";
import type { Value } from "../../onnx/graph.js";

interface Shape {
  readonly hidden: number;
  readonly intermediate: number;
  readonly heads: number;
  readonly keyValueHeads: number;
  readonly headDim: number;
  readonly epsilon: number;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
}

function readShape({ values }: ModelConfig): Shape {
  const hidden = values.count("hidden_size");
  const heads = values.count("num_attention_heads");
  const activation = values.string("hidden_act", "silu");
  if (activation !== "silu") {
    throw new CheckpointError("E_CONFIG", `config.json: "hidden_act" is "${activation}"; a llama has "silu".`, {
      hint: "This checkpoint is a variant that the llama family does not describe.",
      details: { key: "hidden_act", found: activation },
    });
  }
  const keyValueHeads = values.count("num_key_value_heads", heads);
  const headDim = values.count("head_dim", Math.floor(hidden / heads));
  if (heads % keyValueHeads !== 0) {
    throw new CheckpointError(
      "E_CONFIG",
      `config.json: ${heads} attention heads cannot be shared by ${keyValueHeads} key/value heads; expected a divisor.`,
      { details: { heads, keyValueHeads } },
    );
  }
  return {
    hidden,
    intermediate: values.count("intermediate_size"),
    heads,
    keyValueHeads,
    headDim,
    epsilon: values.number("rms_norm_eps", 1e-6),
    attentionBias: values.boolean("attention_bias", false),
    mlpBias: values.boolean("mlp_bias", false),
  };
}

interface LinearPlan {
  readonly path: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly bias: boolean;
}

/** The four input groups in the order of the block. */
function groupPlans(shape: Shape): { readonly name: string; readonly linears: readonly LinearPlan[] }[] {
  const { hidden, intermediate, attentionBias, mlpBias } = shape;
  const queries = shape.heads * shape.headDim;
  const keys = shape.keyValueHeads * shape.headDim;
  const plan = (path: string, inFeatures: number, outFeatures: number, bias: boolean): LinearPlan => ({
    path,
    inFeatures,
    outFeatures,
    bias,
  });
  return [
    {
      name: "attention-input",
      linears: [
        plan("self_attn.q_proj", hidden, queries, attentionBias),
        plan("self_attn.k_proj", hidden, keys, attentionBias),
        plan("self_attn.v_proj", hidden, keys, attentionBias),
      ],
    },
    { name: "attention-output", linears: [plan("self_attn.o_proj", queries, hidden, attentionBias)] },
    {
      name: "mlp-input",
      linears: [
        plan("mlp.gate_proj", hidden, intermediate, mlpBias),
        plan("mlp.up_proj", hidden, intermediate, mlpBias),
      ],
    },
    { name: "mlp-output", linears: [plan("mlp.down_proj", intermediate, hidden, mlpBias)] },
  ];
}

function buildBlock(shape: Shape, context: BlockContext): Value {
  const { graph, hidden, tensor } = context;
  const project = (input: Value, path: string, hasBias: boolean): Value =>
    linear(graph, input, tensor(`${path}.weight`), hasBias ? tensor(`${path}.bias`) : undefined);

  const attentionInput = flatten(
    graph,
    rmsNorm(graph, hidden, tensor("input_layernorm.weight"), shape.epsilon),
    shape.hidden,
  );
  context.tap("attention-input", attentionInput);
  const [query, key, value] = ["q_proj", "k_proj", "v_proj"].map((name) =>
    project(attentionInput, `self_attn.${name}`, shape.attentionBias),
  ) as [Value, Value, Value];
  const mixed = attention(context, { ...shape, scale: shape.headDim ** -0.5, rotary: "default" }, query, key, value);
  context.tap("attention-output", mixed);
  const residual = graph.node("Add", [
    flatten(graph, hidden, shape.hidden),
    project(mixed, "self_attn.o_proj", shape.attentionBias),
  ]);

  const mlpInput = rmsNorm(graph, residual, tensor("post_attention_layernorm.weight"), shape.epsilon);
  context.tap("mlp-input", mlpInput);
  const gate = silu(graph, project(mlpInput, "mlp.gate_proj", shape.mlpBias));
  const gated = graph.node("Mul", [gate, project(mlpInput, "mlp.up_proj", shape.mlpBias)]);
  context.tap("mlp-output", gated);
  const output = graph.node("Add", [residual, project(gated, "mlp.down_proj", shape.mlpBias)]);
  return unflatten(graph, output, hidden, shape.hidden);
}

function describeBlock(shape: Shape, index: number): BlockSpec {
  const name = `model.layers.${index}`;
  const tensors = new Map<string, BlockTensor>();
  const add = (role: string, size: readonly number[]): void => {
    tensors.set(role, { tensor: `${name}.${role}`, shape: size });
  };
  add("input_layernorm.weight", [shape.hidden]);
  add("post_attention_layernorm.weight", [shape.hidden]);
  const groups = groupPlans(shape).map((group, stage): InputGroup => {
    const linears = group.linears.map((plan): LinearSpec => {
      add(`${plan.path}.weight`, [plan.outFeatures, plan.inFeatures]);
      if (plan.bias) add(`${plan.path}.bias`, [plan.outFeatures]);
      const { inFeatures, outFeatures } = plan;
      return { name: `${name}.${plan.path}`, role: `${plan.path}.weight`, inFeatures, outFeatures, inputAxis: 1 };
    });
    return { name: group.name, stage, inFeatures: linears[0]?.inFeatures ?? 0, linears };
  });
  return { index, name, shapeKey: "llama", tensors, groups, build: (context) => buildBlock(shape, context) };
}

function describe(config: ModelConfig, hasTensor: (name: string) => boolean): Architecture {
  const { values } = config;
  const shape = readShape(config);
  const vocabularySize = values.count("vocab_size");
  const embedding = "model.embed_tokens.weight";
  // A file without a head tensor is tied, whatever the config says.
  const isHeadTied = values.boolean("tie_word_embeddings", false) || !hasTensor("lm_head.weight");
  const head: HeadSpec = {
    tensors: new Map([["norm", { tensor: "model.norm.weight", shape: [shape.hidden] }]]),
    build: (graph, hidden, tensor) => rmsNorm(graph, hidden, tensor("norm"), shape.epsilon),
    width: shape.hidden,
    projection: isHeadTied ? embedding : "lm_head.weight",
  };
  return {
    family: "llama",
    hiddenSize: shape.hidden,
    vocabularySize,
    maxPositions: values.count("max_position_embeddings", 2048),
    embedding,
    embeddingWidth: shape.hidden,
    isHeadTied,
    rotaryTables: new Map([["default", readRotaryTable(values, shape.headDim)]]),
    masks: new Map(),
    blocks: Array.from({ length: values.count("num_hidden_layers") }, (_, index) => describeBlock(shape, index)),
    head,
  };
}

export const LLAMA: Family = { name: "llama", modelTypes: ["llama"], describe };
