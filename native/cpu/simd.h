// The vector type of one instruction set and what the kernels do with it. Compiled once per set,
// after the including file has defined ISA, included <immintrin.h> (on x86) and opened the target.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../core/numeric.h"
#include "../core/ops.h"

// g++ 12 does not define __AVX512F__ under `#pragma GCC target`, hence a macro of our own:
// 0 base, 1 avx2 with fma and f16c, 2 avx512 (f, bw, dq, vl), 3 avx512 with bf16.
#ifndef ISA
#error "define ISA before including this file"
#endif

namespace anchorcoder {
namespace {

#if ISA >= 2
inline constexpr int32_t kLanes = 16;
#elif ISA == 1
inline constexpr int32_t kLanes = 8;
#else
inline constexpr int32_t kLanes = 4;
#endif

using Floats [[gnu::vector_size(kLanes * 4)]] = float;
using Ints [[gnu::vector_size(kLanes * 4)]] = int32_t;
using Bits [[gnu::vector_size(kLanes * 4)]] = uint32_t;    // whose sums may wrap
using Halves [[gnu::vector_size(kLanes * 2)]] = uint16_t;  // f16 or bf16 bit patterns
using FloatsAnywhere [[gnu::vector_size(kLanes * 4), gnu::aligned(1), gnu::may_alias]] = float;
using HalvesAnywhere [[gnu::vector_size(kLanes * 2), gnu::aligned(1), gnu::may_alias]] = uint16_t;

// Weights lie at any byte address, so pointers to them are to bytes.
inline Floats load(const void* p) { return *static_cast<const FloatsAnywhere*>(p); }
inline Halves loadHalves(const void* p) { return *static_cast<const HalvesAnywhere*>(p); }
inline void store(void* p, Floats v) { *static_cast<FloatsAnywhere*>(p) = v; }
inline void storeHalves(void* p, Halves v) { *static_cast<HalvesAnywhere*>(p) = v; }

// The first `count` < kLanes elements; the rest are zeros. Reads and writes nothing behind them.
inline Floats loadPart(const void* p, int32_t count) {
#if ISA >= 2
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1u), p);
#else
  Floats v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(count) * 4);
  return v;
#endif
}

inline void storePart(void* p, Floats v, int32_t count) {
#if ISA >= 2
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1u), v);
#else
  __builtin_memcpy(p, &v, static_cast<size_t>(count) * 4);
#endif
}

inline Halves loadHalvesPart(const void* p, int32_t count) {
  Halves v = {};
  __builtin_memcpy(&v, p, static_cast<size_t>(count) * 2);
  return v;
}

inline void storeHalvesPart(void* p, Halves v, int32_t count) {
  __builtin_memcpy(p, &v, static_cast<size_t>(count) * 2);
}

inline Floats broadcast(float value) { return value - Floats{}; }

// One rounding where the set has FMA, two on the base set.
inline Floats multiplyAdd(Floats a, Floats b, Floats c) {
#if ISA >= 2
  return _mm512_fmadd_ps(a, b, c);
#elif ISA == 1
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
inline Floats magnitude(Floats a) { return (Floats)((Ints)a & 0x7fffffff); }

inline Floats squareRoot(Floats a) {
#if ISA >= 2
  return _mm512_sqrt_ps(a);
#elif ISA == 1
  return _mm256_sqrt_ps(a);
#else
  for (int32_t i = 0; i < kLanes; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
#endif
}

// ---- Conversions. `__builtin_convertvector` from u16 is poor code on gcc 12.

inline Ints widen(Halves v) {
#if ISA >= 2
  return (Ints)_mm512_cvtepu16_epi32((__m256i)v);
#elif ISA == 1
  return (Ints)_mm256_cvtepu16_epi32((__m128i)v);
#elif defined(__x86_64__)
  return (Ints)_mm_unpacklo_epi16(_mm_cvtsi64_si128((int64_t)v), _mm_setzero_si128());
#else
  return __builtin_convertvector(v, Ints);
#endif
}

inline Halves narrow(Ints v) {
#if ISA >= 2
  return (Halves)_mm512_cvtepi32_epi16((__m512i)v);
#elif ISA == 1
  const __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);
  return (Halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(v, Halves);
#endif
}

inline Floats fromBf16(Halves v) {
#if ISA == 0 && defined(__x86_64__)
  return (Floats)_mm_unpacklo_epi16(_mm_setzero_si128(), _mm_cvtsi64_si128((int64_t)v));
#else
  return (Floats)(widen(v) << 16);
#endif
}

inline Floats fromF16(Halves v) {
#if ISA >= 2
  return _mm512_cvtph_ps((__m256i)v);
#elif ISA == 1
  return _mm256_cvtph_ps((__m128i)v);
#else
  // Moves the exponent by a product, which also makes subnormals right.
  const Ints bits = widen(v);
  const Floats scaled = (Floats)((bits & 0x7fff) << 13) * 0x1p112f;
  const Ints special = ((bits & 0x7c00) == 0x7c00) & 0x7f800000;
  return (Floats)((Ints)scaled | special | ((bits & 0x8000) << 16));
#endif
}

// The bits of floatToBf16 in the upper half of each lane, zeros below.
inline Ints roundedToBf16(Floats v) {
  const Ints bits = (Ints)v;
  const Ints rounded = (Ints)((Bits)bits + (0x7fffu + (((Bits)bits >> 16) & 1u)));
  const Ints result = v != v ? (bits | 0x400000) : rounded;
  return result & static_cast<int32_t>(0xffff0000u);
}

inline Floats roundBf16(Floats v) { return (Floats)roundedToBf16(v); }
inline Halves toBf16(Floats v) { return narrow((roundedToBf16(v) >> 16) & 0xffff); }

inline Halves toF16(Floats v) {
#if ISA >= 2
  return (Halves)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif ISA == 1
  return (Halves)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  Halves result;
  for (int32_t i = 0; i < kLanes; ++i) result[i] = floatToF16(v[i]);
  return result;
#endif
}

// ---- Sums over the lanes. One tree for every shape: lane i joins i + n/2, then n/4, ...

using Four [[gnu::vector_size(16)]] = float;
using FourAnywhere [[gnu::vector_size(16), gnu::aligned(4), gnu::may_alias]] = float;

// The sums of four vectors, by three or four shared steps.
inline Four sumLanes4(Floats v0, Floats v1, Floats v2, Floats v3) {
#if ISA >= 2
  // Shuffles of 128-bit parts: 0x44 takes the lower halves of two vectors, 0xee the upper ones.
  const Floats a = _mm512_shuffle_f32x4(v0, v1, 0x44) + _mm512_shuffle_f32x4(v0, v1, 0xee);
  const Floats b = _mm512_shuffle_f32x4(v2, v3, 0x44) + _mm512_shuffle_f32x4(v2, v3, 0xee);
  Floats c = _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
  c += (Floats)_mm512_permute_ps(c, 0x4e);
  c += (Floats)_mm512_permute_ps(c, 0xb1);  // each part now holds one sum four times
  return (Four)_mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, c));
#elif ISA == 1
  const Floats a = _mm256_permute2f128_ps(v0, v1, 0x20) + _mm256_permute2f128_ps(v0, v1, 0x31);
  const Floats b = _mm256_permute2f128_ps(v2, v3, 0x20) + _mm256_permute2f128_ps(v2, v3, 0x31);
  const Floats c = _mm256_shuffle_ps(a, b, 0x44) + _mm256_shuffle_ps(a, b, 0xee);
  const Floats d = c + (Floats)_mm256_permute_ps(c, 0xb1);  // sums 0 0 2 2 | 1 1 3 3
  const __m128 low = _mm256_castps256_ps128(d);
  const __m128 high = _mm256_extractf128_ps(d, 1);
  return (Four)_mm_movelh_ps(_mm_unpacklo_ps(low, high), _mm_unpackhi_ps(low, high));
#else
  const Floats a =
      __builtin_shufflevector(v0, v1, 0, 1, 4, 5) + __builtin_shufflevector(v0, v1, 2, 3, 6, 7);
  const Floats b =
      __builtin_shufflevector(v2, v3, 0, 1, 4, 5) + __builtin_shufflevector(v2, v3, 2, 3, 6, 7);
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
#endif
}

inline float sumLanes(Floats v) { return sumLanes4(v, v, v, v)[0]; }

inline float largestLane(Floats v) {
  float largest = v[0];
  for (int32_t i = 1; i < kLanes; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

// ---- Functions, the same bits in every lane and on every row.

// e^x within 1e-7 of the value; 0 below the smallest normal number, infinity above the largest.
inline Floats exponential(Floats x) {
  const Floats lowest = broadcast(-87.33654f);
  const Floats highest = broadcast(88.72284f);
  const Floats inside = x > highest ? highest : (x < lowest ? lowest : x);  // a NaN stays
  // Adding 1.5 * 2^23 rounds to an integer, whose bits are then the lowest of the sum.
  const Floats shifted = inside * 1.44269504f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  Floats r = multiplyAdd(n, broadcast(-0.693359375f), inside);  // ln 2 in two parts
  r = multiplyAdd(n, broadcast(2.12194440e-4f), r);
  Floats p = broadcast(0.0013814596459269524f);
  p = multiplyAdd(p, r, broadcast(0.0083687175065279f));
  p = multiplyAdd(p, r, broadcast(0.04166838899254799f));
  p = multiplyAdd(p, r, broadcast(0.1666652113199234f));
  p = multiplyAdd(p, r, broadcast(0.4999999403953552f));
  p = multiplyAdd(p * r, r, r) + 1.0f;
  // 2^n in two factors, since 2^128 is no float.
  const Ints whole = (Ints)shifted - 0x4b400000;
  const Ints half = whole >> 1;
  const Floats scaled = p * (Floats)((half + 127) << 23) * (Floats)((whole - half + 127) << 23);
  const Floats low = x < lowest ? Floats{} : scaled;
  return x > highest ? broadcast(__builtin_inff()) : low;
}

inline Floats hyperbolicTangent(Floats x) {
  const Floats size = magnitude(x);
  const Floats square = x * x;
  Floats p = broadcast(-0.00566078070551157f);
  p = multiplyAdd(p, square, broadcast(0.020601999014616013f));
  p = multiplyAdd(p, square, broadcast(-0.05372922867536545f));
  p = multiplyAdd(p, square, broadcast(0.13331328332424164f));
  p = multiplyAdd(p, square, broadcast(-0.33333277702331543f));
  const Floats near = multiplyAdd(p * square, x, x);
  const Floats far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
  const Ints sign = (Ints)x & static_cast<int32_t>(0x80000000u);
  return size < 0.625f ? near : (Floats)((Ints)far | sign);
}

// The standard normal distribution function: the share of the values below x.
inline Floats normalShare(Floats x) {
  const Floats z = magnitude(x) * 0.70710678f;
  const Floats t = 1.0f / multiplyAdd(z, broadcast(0.5f), broadcast(1.0f));
  Floats p = broadcast(-0.057257503271102905f);  // erfc(z) e^(z^2) / t, a minimax fit
  p = multiplyAdd(p, t, broadcast(0.2761182188987732f));
  p = multiplyAdd(p, t, broadcast(-0.4705484211444855f));
  p = multiplyAdd(p, t, broadcast(0.26008251309394836f));
  p = multiplyAdd(p, t, broadcast(-0.015026489272713661f));
  p = multiplyAdd(p, t, broadcast(0.19813525676727295f));
  p = multiplyAdd(p, t, broadcast(0.2441597729921341f));
  p = multiplyAdd(p, t, broadcast(0.28224343061447144f));
  p = multiplyAdd(p, t, broadcast(0.28209319710731506f));
  const Floats above = 0.5f * p * t * exponential(-0.5f * x * x);
  return x > 0.0f ? 1.0f - above : above;
}

}  // namespace
}  // namespace anchorcoder
