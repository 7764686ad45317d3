/** What rendering a chat template may take. */

/** Memory of the process, in MiB. */
export const chatMegabytes = 128;

/** Time of one chat. */
export const chatMilliseconds = 1500;
