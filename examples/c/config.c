/* What the config says of this stage: a reader of the JSON in ZPIPE_CONFIG. */
#include "stage.h"

static const char *spaces(const char *json) { return json + strspn(json, " \t\r\n,:"); }

static const char *past(const char *json) { /* the value that begins here */
    if (*json == '"') {
        for (json++; *json && *json != '"'; json++) json += *json == '\\' && json[1];
    } else if (*json == '{' || *json == '[') {
        for (json = spaces(json + 1); *json && *json != '}' && *json != ']';) json = spaces(past(json));
    } else {
        return json + strcspn(json, " \t\r\n,:]}");
    }
    return json + (*json != 0);
}

char *setting(const char *path) { /* what the path leads to, from name to name and index to index */
    const char *json = getenv("ZPIPE_CONFIG");
    for (size_t size; json && *path; path += size + (path[size] == '.')) {
        const char *found = NULL;
        size = strcspn(path, ".");
        bool list = *json == '[';
        long index = 0;
        for (json = spaces(json + 1); !found && *json && *json != '}' && *json != ']'; json = spaces(past(json))) {
            bool same = list ? index++ == atol(path) : !strncmp(json + 1, path, size) && json[size + 1] == '"';
            if (!list) json = spaces(past(json)); /* from the key to the value */
            if (same) found = json;
        }
        json = found;
    }
    if (!json) return NULL;
    char *value = strndup(json, past(json) - json), *to = value;
    if (*value != '"') return value;
    for (const char *from = value + 1; *from && *from != '"'; *to++ = *from++) {
        if (*from == '\\' && *++from == 'u') stop(value, "this example reads no \\u in its config");
    }
    *to = 0;
    return value;
}
