// chat: a conversation becomes the text its model was trained to see, and then ids.
//
// The chat template of the model file decides how (template.h: a bounded interpreter for what such templates use), or one of
// the table below by name. The rendering marks every byte that came from the conversation; only the template's own bytes
// can become control tokens. So "<|im_end|>" typed by a user, in a file or by the model itself stays text.
//
//     struct chat_template *t = chat_template_from_model(file, &err);
//     chat_render(t, tokenizer, messages, n, true, &now, &rendering, &err);
//     chat_encode(tokenizer, &rendering, &ids);
#ifndef LEHR_CHAT_H
#define LEHR_CHAT_H

#include "tokenizer/tokenizer.h"

#include <time.h>

struct chat_message {
    const char *role; // letters, digits, - and _: it stands inside control spellings in some templates
    struct span text;
};
struct chat_template_row { // our own short templates, by the format they write
    const char *name, *help, *source;
};
extern const struct chat_template_row chat_templates[];
extern const int chat_template_count;

struct chat_template; // immutable
// tokenizer.chat_template of a file; NULL when it has none or one that is not understood.
struct chat_template *chat_template_from_model(const struct model_file *f, struct err *err);
// A name of the table, or a file with a template.
struct chat_template *chat_template_named(const char *name, struct err *err);
struct chat_template *chat_template_from_text(const char *source, size_t n, const char *name, struct err *err);
void chat_template_free(struct chat_template *t);
const char *chat_template_name(const struct chat_template *t); // "the model's own", "chatml", a path

struct rendering { // marks: one byte for each of text, 0 the template's, 1 the conversation's
    struct text text, marks;
};
void rendering_free(struct rendering *r);
// Replaces r. now: the date that templates may print; give the same one all through a conversation.
MUST_USE bool chat_render(const struct chat_template *t, const struct tokenizer *tokenizer, const struct chat_message *messages,
                          size_t n, bool add_generation_prompt, const struct tm *now, struct rendering *r, struct err *err);
// Appends the ids. A BOS goes in front when the tokenizer wants one, unless the rendering begins with it.
void chat_encode(const struct tokenizer *tokenizer, const struct rendering *r, struct ids *ids);
// What the template writes behind a reply ends one: *id when that is a control token (else -1), the text of it in stop when
// it is plain text (else empty). Both unset when a template writes nothing.
MUST_USE bool chat_turn_end(const struct chat_template *t, const struct tokenizer *tokenizer, int32_t *id, struct text *stop,
                            struct err *err);

#endif
