/**
 * Conversations as text, by the template that lies beside the model, as transformers' apply_chat_template renders them: with
 * loops and their controls, `raise_exception`, the special tokens by name, and without what asks for an answer
 * (add_generation_prompt false).
 *
 * One thing is not as there: `strftime_now` says the same day always, the one that Llama's own template takes where it has no clock,
 * because a run that is repeated or resumed on another day must see the same tokens.
 */
import { join } from "node:path";
import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { CalibrationError, CheckpointError } from "../errors.js";
import { existsSync, readFileSync } from "../files/checkpoint-files.js";
import { isRecord } from "../is-record.js";
import { parseJson } from "../json.js";
import type { Message } from "./records.js";

/** Under these names transformers hands the special tokens to a template. */
const TOKEN_NAMES = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((name) => `${name}_token`);

/** 26 July 2024, a Friday, at midnight, by Python's directives. */
const DAY: Readonly<Record<string, string>> = {
  ...{ Y: "2024", y: "24", m: "07", d: "26", "-d": "26", e: "26", "-m": "7", j: "208" },
  ...{ B: "July", b: "Jul", A: "Friday", a: "Fri", H: "00", I: "12", M: "00", S: "00", p: "AM" },
  ...{ F: "2024-07-26", D: "07/26/24", T: "00:00:00", R: "00:00", "%": "%" },
};

/** What a template may use beside what it is given. */
const GLOBALS = {
  ...{ true: true, false: false, none: null, True: true, False: false, None: null },
  raise_exception(message: string): never {
    throw new Error(message);
  },
  range(first: number, end?: number, step = 1): number[] {
    const [from, to] = end === undefined ? [0, first] : [first, end];
    return Array.from({ length: Math.max(0, Math.ceil((to - from) / step)) }, (_, i) => from + i * step);
  },
  strftime_now: fixedDay,
};

type Json = Readonly<Record<string, unknown>>;

export class ChatTemplate {
  readonly #template: Template;
  readonly #tokens: Json;
  readonly #source: string;

  private constructor(template: Template, tokens: Json, source: string) {
    this.#template = template;
    this.#tokens = tokens;
    this.#source = source;
  }

  /**
   * chat_template.jinja, else `chat_template` of tokenizer_config.json (of several the one named "default"), else chat_template.json.
   * @throws CalibrationError E_CHAT_TEMPLATE where there is none, or it cannot be read
   */
  static load(modelDirectory: string): ChatTemplate {
    const config = readJson(join(modelDirectory, "tokenizer_config.json")) ?? {};
    const found = findTemplate(modelDirectory, config);
    if (found === undefined) {
      throw new CalibrationError(
        "E_CHAT_TEMPLATE",
        `${modelDirectory}: has no chat template, and records of the text hold messages.`,
        {
          hint: "Take data with a text, or name another field with --text-field; base models have no template.",
          details: { modelDirectory },
        },
      );
    }
    const special = { ...(readJson(join(modelDirectory, "special_tokens_map.json")) ?? {}), ...config };
    const tokens = Object.fromEntries(
      TOKEN_NAMES.flatMap((name) => {
        const text = tokenText(special[name]);
        return text === undefined ? [] : [[name, text]];
      }),
    );
    try {
      return new ChatTemplate(new Template(found.text), tokens, found.source);
    } catch (cause) {
      throw templateProblem(found.source, "cannot be read", cause);
    }
  }

  /**
   * @param where the conversation is from, in messages
   * @throws CalibrationError E_CHAT_TEMPLATE where the template refuses it
   */
  render(messages: readonly Message[], where: string): string {
    try {
      // Not Template.render, whose strftime_now is the clock's and cannot be set.
      const environment = new Environment();
      const given = { messages, tools: null, documents: null, add_generation_prompt: false };
      for (const [name, value] of Object.entries({ ...GLOBALS, ...this.#tokens, ...given }))
        environment.set(name, value);
      const rendered = new Interpreter(environment).run(this.#template.parsed);
      if ("value" in rendered && typeof rendered.value === "string") return rendered.value;
      throw new Error("it gives no text");
    } catch (cause) {
      throw templateProblem(this.#source, `does not take the messages of ${where}`, cause);
    }
  }
}

function findTemplate(
  modelDirectory: string,
  config: Json,
): { readonly text: string; readonly source: string } | undefined {
  const own = join(modelDirectory, "chat_template.jinja");
  if (existsSync(own)) return { text: readFileSync(own, "utf8"), source: own };
  for (const [name, values] of [
    ["tokenizer_config.json", config],
    ["chat_template.json", readJson(join(modelDirectory, "chat_template.json")) ?? {}],
  ] as const) {
    const given = values["chat_template"];
    const text = Array.isArray(given)
      ? (given as unknown[]).filter(isRecord).find((each) => each["name"] === "default")?.["template"]
      : given;
    if (typeof text === "string") return { text, source: join(modelDirectory, name) };
  }
  return undefined;
}

function readJson(file: string): Json | undefined {
  if (!existsSync(file)) return undefined;
  let values: unknown;
  try {
    values = parseJson(readFileSync(file, "utf8"));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new CheckpointError("E_TOKENIZER", `${file}: not valid JSON: ${reason}.`, { details: { file }, cause });
  }
  return isRecord(values) ? values : undefined;
}

/** Special tokens are written as a string or as an object with `content`. */
function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  return isRecord(value) && typeof value["content"] === "string" ? value["content"] : undefined;
}

function fixedDay(format: string): string {
  return format.replace(/%(-?[A-Za-z%])/g, (_all, directive: string) => {
    const text = DAY[directive];
    if (text === undefined) throw new Error(`strftime_now: unknown directive %${directive}`);
    return text;
  });
}

function templateProblem(source: string, what: string, cause: unknown): CalibrationError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new CalibrationError("E_CHAT_TEMPLATE", `${source}: ${what}: ${reason}.`, {
    hint: "Conversations are written by the model's own chat template; take data that it was made for, or texts.",
    details: { file: source },
    cause,
  });
}
