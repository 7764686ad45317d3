/** What this machine can compute on. */
import type { DeviceInfo } from '../types/api.js';
import { loadAddon } from './binding.js';

/** The devices that {@link loadModel} may be asked for. @throws `ERR_ADDON` */
export function devices(): DeviceInfo[] {
  const addon = loadAddon();
  const instructionSets = addon.instructionSets();
  return [{ name: 'cpu', instructionSets, threads: addon.defaultThreads() }];
}
