import tseslint from "typescript-eslint";

const ONNX = { name: "onnxruntime-node", message: "Import src/onnx instead." };
/** The only file that imports the system's file functions. */
const DOOR = "src/files/door.ts";
const FILE_SYSTEM = ["fs", "node:fs", "fs/promises", "node:fs/promises"].map((name) => ({
  name,
  message: "Import the door of what the file is for: src/files/*-files.ts.",
}));

export default tseslint.config(
  { ignores: ["dist/**", "node_modules/**", "src/device/cpu/assembly/**"] },
  {
    files: ["src/**/*.ts", "test/**/*.ts", "bench/**/*.ts"],
    extends: [...tseslint.configs.recommended],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: ["test", "describe", "it", "suite"] },
      ],
      "@typescript-eslint/no-misused-promises": "error",
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      "@typescript-eslint/return-await": ["error", "error-handling-correctness-only"], // `await using` must outlive what is returned
      "@typescript-eslint/no-non-null-assertion": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "no-restricted-syntax": ["error", { selector: "ExportDefaultDeclaration", message: "Named exports only." }],
    },
  },
  {
    files: ["src/**/*.ts"],
    ignores: ["src/onnx/**", DOOR],
    rules: { "no-restricted-imports": ["error", { paths: [ONNX, ...FILE_SYSTEM] }] },
  },
  { files: ["src/onnx/**/*.ts"], rules: { "no-restricted-imports": ["error", { paths: FILE_SYSTEM }] } },
  { files: [DOOR], rules: { "no-restricted-imports": ["error", { paths: [ONNX] }] } },
);
