// Writing from left to right with a session.

export const greedy = { temperature: 0, repetitionPenalty: 1 };

/** What a session writes until `isOver` says so of the text, and whether it stopped by itself. */
export async function write(session, options, isOver = () => false) {
  let text = '';
  let stops = false;
  for await (const chunk of session.generate({ ...options, ...greedy })) {
    text += chunk.text;
    stops = chunk.finish === 'stop';
    if (isOver(text)) break;
  }
  return { text, stops };
}
