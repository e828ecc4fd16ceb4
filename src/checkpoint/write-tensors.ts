/** A safetensors file of the program's own: tensors from memory, in the order of the format. */
import { open } from "../files/output-files.js";
import { encodeHeader, type TensorLayout } from "./header.js";

/**
 * The file is on the disk when this resolves.
 * @param give writes one tensor's values, whole, by what it is handed
 */
export async function writeTensors(
  file: string,
  layouts: readonly TensorLayout[],
  give: (name: string, write: (values: Float32Array | Uint8Array) => Promise<void>) => Promise<void>,
  metadata?: Readonly<Record<string, string>>,
): Promise<void> {
  const { bytes, tensors } = encodeHeader(layouts, metadata);
  const handle = await open(file, "w");
  try {
    await handle.writeFile(bytes);
    for (const { name } of tensors)
      await give(name, ({ buffer, byteOffset, byteLength }) =>
        handle.writeFile(new Uint8Array(buffer, byteOffset, byteLength)),
      );
    await handle.datasync();
  } finally {
    await handle.close();
  }
}
