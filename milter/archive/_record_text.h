/* Texts of a record, sign by sign: what JSON needs no escape for, and the id.
 *
 * Promises: nothing is read but the octets that are given; no memory, no errors, time linear in the
 * octets.  Signs are those of ASCII, whatever the locale.
 */

#ifndef CARBONSEAL_RECORD_TEXT_H
#define CARBONSEAL_RECORD_TEXT_H

#include "../../keys/_extension.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

static inline bool is_digit(octet sign) { return sign >= '0' && sign <= '9'; }
static inline bool is_capital(octet sign) { return sign >= 'A' && sign <= 'Z'; }
static inline bool is_small(octet sign) { return sign >= 'a' && sign <= 'z'; }
static inline bool is_letter_or_digit(octet sign) {
    return is_capital(sign) || is_small(sign) || is_digit(sign);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* Whether it stands for itself in a JSON text of ours, which has DEL as an escape, too. */
static inline bool is_plain_sign(octet sign) {
    return sign >= ' ' && sign < 0x7F && sign != '"' && sign != '\\';
}

/* How many octets from here on stand for themselves. */
static inline size_t plain_run(const octet *from, size_t size) {
    size_t at = 0;
#if defined(__SSE2__)
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\');
    const __m128i del = _mm_set1_epi8(0x7F), space = _mm_set1_epi8(' ');
    for (; size - at >= 16; at += 16) {
        __m128i signs = _mm_loadu_si128((const __m128i *)(from + at));
        /* What is beyond ASCII is negative, and so below the space, too. */
        __m128i odd = _mm_or_si128(_mm_cmplt_epi8(signs, space), _mm_cmpeq_epi8(signs, del));
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(signs, quote));
        odd = _mm_or_si128(odd, _mm_cmpeq_epi8(signs, backslash));
        unsigned found = (unsigned)_mm_movemask_epi8(odd);
        if (found) return at + (size_t)__builtin_ctz(found);
    }
#endif
    while (at < size && is_plain_sign(from[at])) at++;
    return at;
}

/* ---- Ids ------------------------------------------------------------------------------------- */

/* A ULID: 16 octets as 26 signs of five bits each, of which the first two are nothing. */
#define ID_OCTETS 16
#define ID_SIGNS 26
static const char id_signs[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/* The octets of an id as we write it; false for anything else, small letters among it. */
static inline bool read_id(const char *text, size_t size, octet octets[ID_OCTETS]) {
    uint32_t held = 0;
    int bits = -2, next = 0;
    if (size != ID_SIGNS || text[0] > '7') return false;
    for (int at = 0; at < ID_SIGNS; at++) {
        const char *sign = text[at] ? strchr(id_signs, text[at]) : NULL;
        if (!sign) return false;
        held = held << 5 | (uint32_t)(sign - id_signs);
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            octets[next++] = (octet)(held >> bits & 0xFF);
        }
    }
    return true;
}

static inline void write_id(const octet octets[ID_OCTETS], char text[ID_SIGNS]) {
    uint32_t held = 0;
    int bits = 2, next = 0;
    for (int at = 0; at < ID_SIGNS; at++) {
        if (bits < 5) {
            held = held << 8 | octets[next++];
            bits += 8;
        }
        bits -= 5;
        text[at] = id_signs[held >> bits & 31];
    }
}

#endif
