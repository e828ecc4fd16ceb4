/**
 * All that a training of the whole model keeps between its steps, a group of tensors at a time: a block, the embedding, the
 * head. A group stays on the device where there is memory for it; else its fields lie packed on a shelf, in memory or in a
 * file, and one set of matrices serves all groups of the same shapes.
 */
import { mkdir } from "../files/output-files.js";
import { join } from "node:path";
import { elementsOf } from "../array.js";
import { maskWordsPerRow, type Device } from "../device/device.js";
import { InternalError } from "../errors.js";
import { FileShelf, MemoryShelf, type Shelf } from "../shelf.js";
import { FP32, type StateFormat } from "./formats/formats.js";
import { PARAMETER_FIELDS, Parameters, type Parameter, type ParameterField, type ParameterSpec } from "./parameters.js";

/** What a field of numbers is stored as; masks are bits. */
export type FieldFormats = Readonly<Record<Exclude<ParameterField, "mask">, StateFormat>>;

export const FULL_PRECISION: FieldFormats = {
  values: FP32,
  first: FP32,
  second: FP32,
  split: FP32,
  dual: FP32,
  gradient: FP32,
};

export interface ParameterGroup {
  /** Unique; part of file names. */
  readonly name: string;
  /** Starting values; asked for once. */
  load(): Promise<readonly ParameterSpec[]>;
}

export interface ParameterStoreOptions {
  readonly device: Device;
  readonly groups: readonly ParameterGroup[];
  readonly formats: FieldFormats;
  /** For groups that stay, on the device or packed in memory; what does not fit lies in files. */
  readonly memoryBytes: number;
  /** For these files; created where there are any. */
  readonly directory: string;
}

/** Which fields work on a group looks at, and which it changes. */
export interface Access {
  readonly reads?: readonly ParameterField[];
  readonly writes?: readonly ParameterField[];
}

/** What a store takes. */
export interface StoreSize {
  readonly elements: number;
  /** As stored, gradients included. */
  readonly bytes: number;
  /** Of it, in files. */
  readonly fileBytes: number;
}

export class ParameterStore implements AsyncDisposable {
  readonly #device: Device;
  readonly #formats: FieldFormats;
  readonly #groups: StoredGroup[] = [];
  readonly #byName = new Map<string, StoredGroup>();
  /** Matrices for groups that lie on shelves, by their shapes. */
  readonly #tables = new Map<string, Table>();
  /** For packed bytes on their way. */
  #packed = new Uint8Array(0);

  private constructor({ device, formats }: ParameterStoreOptions) {
    this.#device = device;
    this.#formats = formats;
  }

  /** Groups are put in place in order: the first stay in memory, those for which none is left go to files. */
  static async create(options: ParameterStoreOptions): Promise<ParameterStore> {
    const store = new ParameterStore(options);
    try {
      let left = options.memoryBytes;
      for (const group of options.groups) left -= await store.#add(group, left, options.directory);
    } catch (error) {
      await store[Symbol.asyncDispose]();
      throw error;
    }
    return store;
  }

  get names(): readonly string[] {
    return this.#groups.map(({ name }) => name);
  }

  get size(): StoreSize {
    const sum = (value: (group: StoredGroup) => number): number =>
      this.#groups.reduce((total, group) => total + value(group), 0);
    return {
      elements: sum((group) => group.layout.elements),
      bytes: sum((group) => group.layout.bytes),
      fileBytes: sum(({ place, layout }) => (place instanceof FileShelf ? layout.bytes : 0)),
    };
  }

  /**
   * Work on one group. Only what `access` reads is there, and only what it writes is kept.
   * @throws InternalError where a group of the same shapes is being worked on and shares its matrices
   */
  async use<Result>(
    name: string,
    { reads = [], writes = [] }: Access,
    work: (parameters: Parameters) => Promise<Result>,
  ): Promise<Result> {
    const group = this.#group(name);
    if (group.place instanceof Parameters) return work(group.place);
    const table = (this.#tables.get(group.layout.key) ?? this.#lay(group)) as Table;
    if (table.isTaken) throw new InternalError("E_PARAMETER_STORE", `${name}: its matrices are in use`);
    table.isTaken = true;
    try {
      await this.#transfer(group.place, group.layout, table.parameters, reads, "take");
      const result = await work(table.parameters);
      await this.#transfer(group.place, group.layout, table.parameters, writes, "put");
      return result;
    } finally {
      table.isTaken = false;
    }
  }

  /** Copies of everything but gradients, on the disk when this resolves; one file for each group. */
  async snapshot(directory: string): Promise<void> {
    await mkdir(directory, { recursive: true });
    for (const { name } of this.#groups) {
      await using file = await FileShelf.open(join(directory, fileOf(name)), "w+");
      await this.#exchange(name, file, "put");
      await file.flush();
    }
  }

  /** Take over what `snapshot` left. */
  async restore(directory: string): Promise<void> {
    for (const { name } of this.#groups) {
      await using file = await FileShelf.open(join(directory, fileOf(name)), "r");
      await this.#exchange(name, file, "take");
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { place } of this.#groups)
      if (place instanceof Parameters) place[Symbol.dispose]();
      else await place[Symbol.asyncDispose]();
    for (const { parameters } of this.#tables.values()) parameters[Symbol.dispose]();
    this.#groups.length = 0;
    this.#tables.clear();
  }

  #group(name: string): StoredGroup {
    const group = this.#byName.get(name);
    if (group === undefined) throw new RangeError(`no group ${name}`);
    return group;
  }

  /** @returns bytes of memory that it takes for good */
  async #add({ name, load }: ParameterGroup, memoryBytes: number, directory: string): Promise<number> {
    const specs = await load();
    const layout = layOut(specs, this.#formats);
    const fits = layout.bytes <= memoryBytes;
    const isPlain = Object.values(this.#formats).every((format) => format === FP32);
    if (fits && isPlain) this.#keep({ name, layout, place: new Parameters(this.#device, specs) });
    else {
      if (!fits) await mkdir(directory, { recursive: true });
      const path = join(directory, fileOf(name));
      const place = fits ? new MemoryShelf(layout.bytes) : await FileShelf.open(path, "w+");
      this.#keep({ name, layout, place });
      using starting = new Parameters(this.#device, specs);
      await this.#transfer(place, layout, starting, PARAMETER_FIELDS, "put");
    }
    return fits ? layout.bytes : 0;
  }

  #keep(group: StoredGroup): void {
    this.#groups.push(group);
    this.#byName.set(group.name, group);
  }

  #lay({ layout }: StoredGroup): Table {
    const blank = ({ shape, ...spec }: ParameterSpec): ParameterSpec => ({
      ...spec,
      shape,
      values: new Float32Array(elementsOf(shape)),
    });
    const table = { parameters: new Parameters(this.#device, layout.specs.map(blank)), isTaken: false };
    this.#tables.set(layout.key, table);
    return table;
  }

  async #exchange(name: string, file: FileShelf, direction: Direction): Promise<void> {
    const { place, layout } = this.#group(name);
    const fields = PARAMETER_FIELDS.filter((field) => field !== "gradient");
    if (place instanceof Parameters) return this.#transfer(file, layout, place, fields, direction);
    const [from, to] = direction === "put" ? [place, file] : [file, place];
    for (const { position, bytes } of piecesOf(layout, fields)) {
      const packed = this.#room(bytes);
      await from.read(position, packed);
      await to.write(position, packed);
    }
  }

  /** Fields of all parameters from a shelf, or onto it. */
  async #transfer(
    shelf: Shelf,
    layout: Layout,
    parameters: Parameters,
    fields: readonly ParameterField[],
    direction: Direction,
  ): Promise<void> {
    for (const [index, parameter] of [...parameters].entries())
      for (const field of fields.filter((each) => parameter.has(each)))
        await this.#move(shelf, layout.positions[index]?.get(field) as number, parameter, field, direction);
    if (direction === "take") await this.#device.synchronize();
  }

  async #move(
    shelf: Shelf,
    position: number,
    parameter: Parameter,
    field: ParameterField,
    direction: Direction,
  ): Promise<void> {
    const format = field === "mask" ? FP32 : this.#formats[field];
    const isRaw = format === FP32;
    if (direction === "put") {
      const numbers = await parameter.give(field);
      if (isRaw) return shelf.write(position, bytesOf(numbers));
      const packed = this.#room(format.bytesFor(numbers.length));
      format.pack(numbers as Float32Array, packed);
      return shelf.write(position, packed);
    }
    await parameter.receive(field, async (numbers) => {
      if (isRaw) return shelf.read(position, bytesOf(numbers));
      const packed = this.#room(format.bytesFor(numbers.length));
      await shelf.read(position, packed);
      format.unpack(packed, numbers as Float32Array);
    });
  }

  #room(bytes: number): Uint8Array {
    if (this.#packed.length < bytes) this.#packed = new Uint8Array(bytes);
    return this.#packed.subarray(0, bytes);
  }
}

type Direction = "put" | "take";

interface StoredGroup {
  readonly name: string;
  readonly layout: Layout;
  readonly place: Parameters | Shelf;
}

interface Table {
  readonly parameters: Parameters;
  isTaken: boolean;
}

/** Where the fields of a group's parameters lie on its shelf: field by field, gradients last. */
interface Layout {
  /** Equal for groups that the same matrices can serve. */
  readonly key: string;
  /** Without values. */
  readonly specs: readonly ParameterSpec[];
  /** By parameter. */
  readonly positions: readonly ReadonlyMap<ParameterField, number>[];
  readonly elements: number;
  readonly bytes: number;
}

const NO_VALUES = new Float32Array(0);

function layOut(specs: readonly ParameterSpec[], formats: FieldFormats): Layout {
  const positions = specs.map(() => new Map<ParameterField, number>());
  let bytes = 0;
  for (const field of PARAMETER_FIELDS)
    for (const [index, spec] of specs.entries()) {
      if (!hasField(spec, field)) continue;
      positions[index]?.set(field, bytes);
      bytes += bytesOfField(spec, field, formats);
    }
  const kept = specs.map((spec) => ({ ...spec, values: NO_VALUES }));
  const key = JSON.stringify(kept.map(({ name, shape, isMasked, isSplit }) => [name, shape, isMasked, isSplit]));
  return { key, specs: kept, positions, elements: specs.reduce((sum, { shape }) => sum + elementsOf(shape), 0), bytes };
}

function hasField({ isMasked, isSplit = false }: ParameterSpec, field: ParameterField): boolean {
  if (field === "mask") return isMasked || isSplit;
  return isSplit || (field !== "split" && field !== "dual");
}

function bytesOfField({ shape }: ParameterSpec, field: ParameterField, formats: FieldFormats): number {
  const elements = elementsOf(shape);
  if (field !== "mask") return formats[field].bytesFor(elements);
  const columns = shape.at(-1) ?? 1;
  return 4 * (elements / columns) * maskWordsPerRow(columns);
}

/** Runs of bytes of some fields, a parameter's field each. */
function* piecesOf(
  { positions, bytes: end }: Layout,
  fields: readonly ParameterField[],
): Generator<{ readonly position: number; readonly bytes: number }> {
  const starts = [...positions.flatMap((fieldsOf) => [...fieldsOf.values()]), end].sort((a, b) => a - b);
  for (const fieldsOf of positions)
    for (const [field, position] of fieldsOf)
      if (fields.includes(field))
        yield { position, bytes: (starts[starts.indexOf(position) + 1] as number) - position };
}

function fileOf(group: string): string {
  return `${group.replaceAll(/[^\w.-]/gu, "_")}.bin`;
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Uint32Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}
