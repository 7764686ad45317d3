// What every consumer of the installed package does: known ids from a model, text through the
// tokenizer and a template, and errors of three makers.
import { deepEqual, rejects, throws } from 'node:assert/strict';

/** `anchorcoder`: the package, however it was loaded; the rest is what to expect of it. */
export async function check(
  anchorcoder,
  { model, ids, greedy, textModel, text, textIds, version },
) {
  const { AnchorError, devices, estimate, loadModel } = anchorcoder;
  deepEqual(anchorcoder.version, version);
  deepEqual(devices()[0].instructionSets[0], 'base');
  const { weightBytes } = await estimate(model);

  const loaded = await loadModel(model, { compute: 'exact' });
  const session = loaded.createSession();
  await session.append(ids);
  const found = [];
  for await (const { id } of session.generate({ maxTokens: greedy.length, stopTokens: [] })) {
    found.push(id);
  }
  deepEqual(found, greedy);
  // Thrown in C++, where the C++ library is the addon's own.
  throws(() => session.truncate(1000), { name: 'AnchorError', code: 'ERR_POSITION' });
  loaded.dispose();
  const limit = loadModel(model, { maxMemory: weightBytes - 1 });
  await rejects(limit, { name: 'AnchorError', code: 'ERR_OUT_OF_MEMORY' });
  await rejects(loadModel('nowhere'), (error) => {
    return error instanceof AnchorError && error.code === 'ERR_MODEL_NOT_FOUND';
  });

  const withText = await loadModel(textModel);
  const plain = await withText.tokenize(text, { addSpecial: false, insertAnchors: false });
  deepEqual([...plain], textIds);
  deepEqual(withText.detokenize(plain), text);
  const chat = await withText.chat([{ role: 'user', content: text }], {
    templateText: '{{ messages[0].content }}',
  });
  deepEqual(chat.text, text);
  withText.dispose();
}
