// expert_use.c: which experts a text goes through.
//
// While a session reads, the products of experts show their rows: one for each expert of each token (struct observer in
// model.h). They are counted where a layer's last matrix is read, so that each choice counts once. What comes of it does not
// depend on how the text is cut into feeds. Shares of two texts side by side tell how far experts have specialised.
#include "gen/gen.h"

#include <math.h>

struct expert_use {
    const struct model *model;
    struct session *session;
    struct observer observer;
    int64_t *count;  // [L,E]
    int32_t *chosen; // host
    size_t chosen_cap;
};

static void count_chosen(void *arg, int param, struct tensor x, const int32_t *chosen, int64_t n) {
    struct expert_use *u = arg;
    const struct model_config *c = &u->model->config;
    (void)x;
    if (!n) return;
    for (int64_t l = 0; l < c->L; l++) {
        if (u->model->layers[l].down_exps != param) continue;
        mem_grow((void **)&u->chosen, &u->chosen_cap, (size_t)n, sizeof *u->chosen, "chosen experts");
        u->model->backend->download(u->chosen, chosen, (size_t)n * sizeof *u->chosen);
        for (int64_t i = 0; i < n; i++) u->count[l * c->E + u->chosen[i]]++;
    }
}

struct expert_use *expert_use_new(const struct model *m, struct session *s) {
    if (m->config.E <= 0) return NULL;
    struct expert_use *u = mem_alloc(sizeof *u, "use of experts");
    u->model = m;
    u->session = s;
    u->count = mem_array((size_t)(m->config.L * m->config.E), sizeof *u->count, "use of experts");
    u->observer = (struct observer){count_chosen, u};
    session_observe(s, &u->observer);
    return u;
}

void expert_use_free(struct expert_use *u) {
    if (!u) return;
    session_observe(u->session, NULL);
    mem_free(u->count);
    mem_free(u->chosen);
    mem_free(u);
}

struct expert_summary expert_use_summary(const struct expert_use *u) {
    const struct model_config *c = &u->model->config;
    struct expert_summary s = {.experts = c->E};
    for (int64_t l = 0; l < c->L; l++) {
        const int64_t *count = u->count + l * c->E;
        double all = 0, most = 0;
        for (int64_t e = 0; e < c->E; e++) all += (double)count[e], most = fmax(most, (double)count[e]);
        if (!(all > 0)) continue; // a layer without experts
        s.layers++;
        s.busiest += most / all * (double)c->E;
        for (int64_t e = 0; e < c->E; e++) {
            double share = (double)count[e] / all;
            s.unused += count[e] == 0;
            if (share > 0) s.entropy -= share * log2(share);
        }
    }
    if (s.layers) s.busiest /= (double)s.layers, s.entropy /= (double)s.layers;
    return s;
}

void expert_use_write(const struct expert_use *u, const char *key, struct json_out *to) {
    const struct model_config *c = &u->model->config;
    json_out_array(to, key);
    for (int64_t l = 0; l < c->L; l++) {
        json_out_array(to, NULL);
        for (int64_t e = 0; e < c->E; e++) json_out_integer(to, NULL, u->count[l * c->E + e]);
        json_out_close(to, ']');
    }
    json_out_close(to, ']');
}
