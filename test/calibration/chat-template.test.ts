/** Conversations as text: stored renderings of Python's Jinja, where templates are found, what they refuse. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { ChatTemplate } from "../../src/calibration/chat-template.js";
import { CalibrationError } from "../../src/errors.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { repositoryPath } from "../helpers/paths.js";

const stored = JSON.parse(readFileSync(repositoryPath("test/fixtures/text/chat.json"), "utf8")) as {
  readonly messages: readonly Record<string, string>[];
  readonly cases: Readonly<Record<string, { readonly template: string; readonly text: string }>>;
};

function load(t: TestContext, files: Readonly<Record<string, unknown>>): ChatTemplate {
  const directory = temporaryDirectory(t);
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(directory, name), typeof content === "string" ? content : JSON.stringify(content));
  return ChatTemplate.load(directory);
}

const TOKENS = { bos_token: "<s>", eos_token: { content: "</s>", special: true } };

test("templates give what Python's Jinja gives with the settings of transformers", (t) => {
  for (const [name, { template, text }] of Object.entries(stored.cases)) {
    const rendered = load(t, { "tokenizer_config.json": { ...TOKENS, chat_template: template } });
    assert.equal(rendered.render(stored.messages, "here"), text, name);
  }
});

test("a template of its own file comes first, then the default of several, then the processor's", (t) => {
  const messages = [{ role: "user", content: "x" }];
  const several = {
    ...TOKENS,
    chat_template: [
      { name: "tools", template: "no" },
      { name: "default", template: "several" },
    ],
  };
  const own = { "chat_template.jinja": "own {{ eos_token }}", "tokenizer_config.json": several };
  assert.equal(load(t, own).render(messages, "here"), "own </s>");
  assert.equal(load(t, { "tokenizer_config.json": several }).render(messages, "here"), "several");
  const processor = { "chat_template.json": { chat_template: "{% for i in range(1, 6, 2) %}{{ i }}{% endfor %}" } };
  assert.equal(load(t, processor).render(messages, "here"), "135");
});

test("what a template refuses is said with the record; one that cannot be read, with its file", (t) => {
  const refusing = load(t, { "chat_template.jinja": "{{ raise_exception('roles must alternate') }}" });
  const isProblem = (message: RegExp) => (error: unknown) =>
    error instanceof CalibrationError && error.code === "E_CHAT_TEMPLATE" && message.test(error.message);
  assert.throws(
    () => refusing.render([], "chats.jsonl:3"),
    isProblem(/messages of chats\.jsonl:3: roles must alternate/),
  );
  assert.throws(
    () => load(t, { "chat_template.jinja": "{% if %}" }),
    isProblem(/chat_template\.jinja: cannot be read/),
  );
  assert.throws(() => load(t, {}), isProblem(/has no chat template/));
  const clock = load(t, { "chat_template.jinja": "{{ strftime_now('%Q') }}" });
  assert.throws(() => clock.render([], "here"), isProblem(/unknown directive %Q/));
});
