/**
 * Bytes of an ONNX model. The encoding is protobufjs's; this file only declares the few messages of onnx.proto
 * that our graphs use (field numbers from the ONNX IR specification, version 10).
 */
import protobuf from "protobufjs/light.js";

/** TensorProto.DataType. */
export const ELEMENT_TYPES = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  uint16: 4,
  float64: 11,
} as const;

export type ElementType = keyof typeof ELEMENT_TYPES;

export type AttributeValue =
  | { readonly int: number }
  | { readonly float: number }
  | { readonly string: string }
  | { readonly ints: readonly number[] }
  | { readonly graph: GraphRecord };

export interface NodeRecord {
  readonly name: string;
  readonly operator: string;
  readonly domain: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, AttributeValue>>;
}

export interface ValueRecord {
  readonly name: string;
  readonly type: ElementType;
  /** A string names a dimension known only at run time. */
  readonly shape: readonly (number | string)[];
}

export interface ConstantRecord {
  readonly name: string;
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export interface GraphRecord {
  readonly name: string;
  readonly nodes: readonly NodeRecord[];
  readonly inputs: readonly ValueRecord[];
  readonly outputs: readonly ValueRecord[];
  /** What is known of values between them. */
  readonly values: readonly ValueRecord[];
  readonly constants: readonly ConstantRecord[];
}

const IR_VERSION = 10;
const OPSET = 23; // Attention, RMSNormalization and RotaryEmbedding are operators from here on
const ATTRIBUTE_TYPES = { float: 1, int: 2, string: 3, graph: 5, ints: 7 } as const;

const field = (type: string, id: number): protobuf.IField => ({ type, id });
const repeated = (type: string, id: number): protobuf.IField => ({ rule: "repeated", type, id });

const SCHEMA = protobuf.Root.fromJSON({
  nested: {
    Dimension: { fields: { dimValue: field("int64", 1), dimParam: field("string", 2) } },
    Shape: { fields: { dim: repeated("Dimension", 1) } },
    TensorType: { fields: { elemType: field("int32", 1), shape: field("Shape", 2) } },
    Type: { fields: { tensorType: field("TensorType", 1) } },
    ValueInfo: { fields: { name: field("string", 1), type: field("Type", 2) } },
    Attribute: {
      fields: {
        name: field("string", 1),
        f: field("float", 2),
        i: field("int64", 3),
        s: field("bytes", 4),
        g: field("Graph", 6),
        ints: repeated("int64", 8),
        type: field("int32", 20),
      },
    },
    Node: {
      fields: {
        input: repeated("string", 1),
        output: repeated("string", 2),
        name: field("string", 3),
        opType: field("string", 4),
        attribute: repeated("Attribute", 5),
        domain: field("string", 7),
      },
    },
    Tensor: {
      fields: {
        dims: repeated("int64", 1),
        dataType: field("int32", 2),
        name: field("string", 8),
        rawData: field("bytes", 9),
      },
    },
    Graph: {
      fields: {
        node: repeated("Node", 1),
        name: field("string", 2),
        initializer: repeated("Tensor", 5),
        input: repeated("ValueInfo", 11),
        output: repeated("ValueInfo", 12),
        valueInfo: repeated("ValueInfo", 13),
      },
    },
    OperatorSet: { fields: { domain: field("string", 1), version: field("int64", 2) } },
    Model: {
      fields: {
        irVersion: field("int64", 1),
        producerName: field("string", 2),
        graph: field("Graph", 7),
        opsetImport: repeated("OperatorSet", 8),
      },
    },
  },
});

function attribute(name: string, value: AttributeValue): object {
  if ("int" in value) return { name, i: value.int, type: ATTRIBUTE_TYPES.int };
  if ("float" in value) return { name, f: value.float, type: ATTRIBUTE_TYPES.float };
  if ("string" in value) return { name, s: Buffer.from(value.string, "utf8"), type: ATTRIBUTE_TYPES.string };
  if ("graph" in value) return { name, g: graphOf(value.graph), type: ATTRIBUTE_TYPES.graph };
  return { name, ints: [...value.ints], type: ATTRIBUTE_TYPES.ints };
}

function valueInfo(value: ValueRecord): object {
  const dim = value.shape.map((size) => (typeof size === "string" ? { dimParam: size } : { dimValue: size }));
  return { name: value.name, type: { tensorType: { elemType: ELEMENT_TYPES[value.type], shape: { dim } } } };
}

function graphOf(graph: GraphRecord): object {
  return {
    name: graph.name,
    node: graph.nodes.map((node) => ({
      name: node.name,
      opType: node.operator,
      domain: node.domain,
      input: [...node.inputs],
      output: [...node.outputs],
      attribute: Object.entries(node.attributes).map(([name, value]) => attribute(name, value)),
    })),
    initializer: graph.constants.map((constant) => ({
      name: constant.name,
      dims: [...constant.shape],
      dataType: ELEMENT_TYPES[constant.type],
      rawData: constant.bytes,
    })),
    input: graph.inputs.map(valueInfo),
    output: graph.outputs.map(valueInfo),
    valueInfo: graph.values.map(valueInfo),
  };
}

/** The bytes of a ModelProto that holds this graph. */
export function encodeModel(graph: GraphRecord): Uint8Array {
  const Model = SCHEMA.lookupType("Model");
  const message = Model.fromObject({
    irVersion: IR_VERSION,
    producerName: "prune",
    opsetImport: [
      { domain: "", version: OPSET },
      { domain: "com.microsoft", version: 1 },
    ],
    graph: graphOf(graph),
  });
  return Model.encode(message).finish();
}
