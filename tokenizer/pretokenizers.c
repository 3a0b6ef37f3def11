// pretokenizers.c: the known pre-tokenizers by name, and the known patterns by their text.
//
// GGUF files name the pre-tokenizer (tokenizer.ggml.pre); HF folders spell it out in tokenizer.json as patterns and a few
// named kinds. Both end in the same splitters (pretokenize.c). A text that is none of these is refused: a pattern that is
// nearly right gives nearly right ids, and nobody notices.
//
// nfc is set where the family's own tokenizer normalizes its input so; the files do not say it. Spellings that match
// alike ("\s*[\r\n]" ends where "\s*[\r\n]+" does, possessive runs never had to give back) share a splitter.
#include "tokenizer/internal.h"

#include <string.h>

#define S(name) &splitters[SPLIT_##name]

// clang-format off
static const struct pretokenizer rows[] = {
    {"gpt-2 phi-2 mellum a.x-4.0 exaone4 gigachat jais trillion granite-docling modern-bert", 0,
     {S(GPT2)}},
    {"mpt olmo", PRE_NFC,
     {S(GPT2)}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", PRE_WHOLE | PRE_BOS,
     {S(LLAMA3)}},
    {"dbrx smaug-bpe chatglm-bpe", 0,
     {S(LLAMA3)}},
    {"glm4 glm5", PRE_WHOLE,
     {S(LLAMA3)}},
    {"minicpm5", PRE_WHOLE,
     {S(NUMBER_3), S(LLAMA3_RUNS)}},
    {"qwen2", PRE_NFC,
     {S(QWEN2)}},
    {"deepseek-r1-qwen megrez stablelm2 kormo f2llmv2 hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe", 0,
     {S(QWEN2)}},
    {"qwen35", 0,
     {S(QWEN35)}},
    {"seed-coder", 0,
     {S(SEED_CODER)}},
    {"smollm starcoder refact codeshell minerva-7b exaone mellum2", 0,
     {S(DIGITS_EACH), S(GPT2)}},
    {"command-r", PRE_NFC,
     {S(DIGITS_EACH), S(GPT2)}},
    {"tekken", PRE_WHOLE | PRE_BOS,
     {S(TEKKEN)}},
    {"gpt-4o llama4 kanana2 talkie minimax-m2", 0,
     {S(GPT4O)}},
    {"kimi-k2", 0,
     {S(KIMI)}},
    {"ufakzeka", 0,
     {S(UFAKZEKA)}},
    {"laguna", 0,
     {S(LINES), S(QWEN2)}},
    {"deepseek-llm", 0,
     {S(NEWLINE), S(CASED_LETTERS), S(WIDE_PUNCTS), S(LAST_SPACES), S(CJK), S(DIGITS_EACH)}},
    {"deepseek-coder", 0,
     {S(NEWLINE), S(LETTERS), S(PUNCTS), S(CJK), S(DIGITS_EACH)}},
    {"deepseek-v3 hunyuan-dense joyai-llm hy_v4", 0,
     {S(NUMBER_3), S(HAN_KANA), S(DEEPSEEK3)}},
    {"falcon", 0,
     {S(PUNCTUATION), S(GPT2), S(ASCII_3)}},
    {"poro-chat bloom gpt3-finnish", 0,
     {S(BLOOM)}},
    {"viking", 0,
     {S(BLOOM), S(NUMBER_EACH)}},
    {"default", 0,
     {S(PUNCT_DEFAULT), S(GPT2), S(NUMBER_RUN), S(ASCII_3)}},
};
// clang-format on

static const struct {
    const char *pattern;
    const struct splitter *splitter;
} patterns[] = {
    {"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_GPT2]},
    {"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_GPT2]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{"
     "N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_LLAMA3]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p"
     "{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_LLAMA3]},
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]++["
     "\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_LLAMA3]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
     "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_LLAMA3_RUNS]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+["
     "\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_QWEN2]},
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\"
     "n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_QWEN2]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}"
     "\\p{M}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_QWEN35]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}"
     "\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_SEED_CODER]},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}"
     "\\r\\n]+|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_SEED_CODER]},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
     "+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M"
     "}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_TEKKEN]},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
     "+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
     "]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}"
     "\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_GPT4O]},
    {"[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p"
     "{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+[\\p{Ll}"
     "\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]"
     "+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_KIMI]},
    {"[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_UFAKZEKA]},
    {"[^\\n]+|[\\n]+",
     &splitters[SPLIT_LINES]},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L"
     "}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_DEEPSEEK3]},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}"
     "\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
     &splitters[SPLIT_DEEPSEEK3]},
    {"\\p{N}",
     &splitters[SPLIT_NUMBER_EACH]},
    {"\\p{N}+",
     &splitters[SPLIT_NUMBER_RUN]},
    {"\\p{N}{1,3}",
     &splitters[SPLIT_NUMBER_3]},
    {"[0-9][0-9][0-9]",
     &splitters[SPLIT_ASCII_3]},
    {"[\\p{P}\\$\\+<=>\\^~\\|]+",
     &splitters[SPLIT_PUNCT_DEFAULT]},
    {"[\\r\\n]",
     &splitters[SPLIT_NEWLINE]},
    {"[\r\n]",
     &splitters[SPLIT_NEWLINE]},
    {"\\s?\\p{L}+",
     &splitters[SPLIT_LETTERS]},
    {"\\s?\\p{P}+",
     &splitters[SPLIT_PUNCTS]},
    {"\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-"
     "Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-"
     "ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
     &splitters[SPLIT_CASED_LETTERS]},
    {"\\s?[!-/:-~！-／：-～‘-‟　-。]+",
     &splitters[SPLIT_WIDE_PUNCTS]},
    {"\\s+$",
     &splitters[SPLIT_LAST_SPACES]},
    {"[一-龥ࠀ-一가-퟿]+",
     &splitters[SPLIT_CJK]},
    {"[一-龥぀-ゟ゠-ヿ]+",
     &splitters[SPLIT_HAN_KANA]},
    {" ?[^(\\s|[.,!?…。，、।۔،])]+",
     &splitters[SPLIT_BLOOM]},
    {" ?[^(\\s|.,!?…。，、।۔،)]+",
     &splitters[SPLIT_BLOOM]},
};

static bool same(const char *name, const char *text, size_t n) { return strlen(name) == n && !memcmp(name, text, n); }

const struct pretokenizer *pretokenizer_row(size_t i) { return i < COUNT_OF(rows) ? &rows[i] : NULL; }

const struct pretokenizer *pretokenizer_find(const char *name, size_t n) {
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        for (const char *word = rows[i].names; *word;) {
            size_t length = strcspn(word, " ");
            if (length == n && !memcmp(word, name, n)) return &rows[i];
            word += length + (word[length] == ' ');
        }
    return NULL;
}

const struct splitter *splitter_find(const char *name, size_t n) {
    for (size_t i = 0; i < SPLIT_COUNT; i++)
        if (same(splitters[i].name, name, n)) return &splitters[i];
    return NULL;
}

const struct splitter *splitter_of_pattern(const char *pattern, size_t n) {
    for (size_t i = 0; i < COUNT_OF(patterns); i++)
        if (same(patterns[i].pattern, pattern, n)) return patterns[i].splitter;
    return NULL;
}

const char *splitter_pattern(const struct splitter *s) {
    for (size_t i = 0; i < COUNT_OF(patterns); i++)
        if (patterns[i].splitter == s) return patterns[i].pattern;
    return NULL;
}
