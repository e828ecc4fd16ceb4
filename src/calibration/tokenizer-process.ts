/**
 * The process that the tokenizers library runs in. It is native and aborts where a definition or a text meets a case it
 * does not expect, so it works outside the program: what ends here is an error there (tokenizer-library.ts).
 */
import type { LibraryReply, LibraryRequest } from "./tokenizer-library.js";

/** What is used of the addon. */
interface Library {
  readonly Tokenizer: { fromString(definition: string): NativeTokenizer };
}

interface NativeTokenizer {
  encode(
    text: string,
    pair: null,
    options: { readonly addSpecialTokens: boolean },
  ): Promise<{ getIds(): readonly number[] }>;
  decode(ids: readonly number[], skipSpecialTokens: boolean): Promise<string>;
  tokenToId(token: string): number | null;
}

let tokenizer: NativeTokenizer | undefined;

async function answer(request: LibraryRequest): Promise<LibraryReply> {
  if (request.kind === "load") {
    let library: Library;
    try {
      library = ((await import("@anush008/tokenizers")) as unknown as { readonly default: Library }).default;
    } catch (cause) {
      return { kind: "unavailable", reason: messageOf(cause) };
    }
    tokenizer = library.Tokenizer.fromString(request.definition);
    return { kind: "loaded" };
  }
  if (tokenizer === undefined) throw new Error("nothing is loaded");
  switch (request.kind) {
    case "encode": {
      const encoding = await tokenizer.encode(request.text, null, { addSpecialTokens: request.isWhole });
      return { kind: "ids", ids: Int32Array.from(encoding.getIds()) };
    }
    case "decode":
      return { kind: "text", text: await tokenizer.decode([...request.ids], true) };
    case "look-up":
      return { kind: "id", id: tokenizer.tokenToId(request.token) ?? undefined };
    default:
      return request satisfies never;
  }
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

let previous: Promise<unknown> = Promise.resolve();

process.on("message", (request: LibraryRequest) => {
  previous = previous
    .then(() => answer(request))
    .catch((cause: unknown): LibraryReply => ({ kind: "refused", reason: messageOf(cause) }))
    .then((reply) => process.send?.(reply));
});
process.on("disconnect", () => process.exit(0));
