/** The one error class of the package, and how other errors become it. */
import type { ErrorCode } from '../types/api.js';

const codes: ReadonlySet<string> = new Set<ErrorCode>([
  'ERR_INVALID_ARGUMENT',
  'ERR_MODEL_NOT_FOUND',
  'ERR_MODEL_INVALID',
  'ERR_MODEL_UNSUPPORTED',
  'ERR_NO_TOKENIZER',
  'ERR_CONTEXT_LENGTH',
  'ERR_POSITION',
  'ERR_BUSY',
  'ERR_DISPOSED',
  'ERR_ABORTED',
  'ERR_OUT_OF_MEMORY',
  'ERR_DEVICE',
  'ERR_SNAPSHOT_INVALID',
  'ERR_FILE',
  'ERR_ADDON',
]);

/**
 * Every error that this package makes. Test `code` (or `name`), not `instanceof`: test runners and
 * worker threads have classes of their own.
 */
export class AnchorError extends Error {
  /** Stable over versions, unlike the message. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }

  static {
    // On the prototype, as the language's own errors have it.
    Object.defineProperty(AnchorError.prototype, 'name', {
      value: 'AnchorError',
      writable: true,
      configurable: true,
    });
  }
}

/** The `code` of an error of any realm, or undefined. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

/** An `AnchorError` for a native failure; anything else stays what it is. */
export function fromNative(error: unknown): unknown {
  const code = codeOf(error);
  if (code === undefined || !codes.has(code)) return error;
  const { name, message } = error as Error;
  if (name === 'AnchorError') return error;
  return new AnchorError(code as ErrorCode, message, { cause: error });
}

/** What an aborted call rejects with: the caller's own reason where there is one. */
export function abortReason(signal: AbortSignal): unknown {
  const reason: unknown = signal.reason;
  if (reason !== undefined) return reason;
  return new AnchorError('ERR_ABORTED', 'The call was aborted');
}

/** Throws the signal's reason if it has been aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortReason(signal);
}

/**
 * What `work` gives, or the signal's reason as soon as it is aborted. For work that cannot be
 * stopped: it ends unseen.
 */
export async function unlessAborted<T>(
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  throwIfAborted(signal);
  if (!signal) return work();
  let abort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    abort = () => reject(abortReason(signal));
  });
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([work(), aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}
