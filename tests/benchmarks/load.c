/*
 * load: sends messages to a milter as Postfix does, and counts what comes back signed.
 *
 * SYNOPSIS
 *      load [options] unix:/path | inet:address:port
 *
 * Speaks version 6 of the milter protocol from the MTA's side, on several connections at once, in
 * one thread (epoll).  Offers all that Postfix 3.7 offers and honours what the milter answers: no
 * waiting for replies it does not give, no events it declined, its macro lists, the leading space of
 * header values, SKIP.  The order of packets is Postfix's: macros before each event, field and chunk
 * of body, no queue id before a recipient was accepted, ABORT after each message, ABORT and QUIT at
 * the end of a connection.
 *
 * A message counts only when its end was answered with "continue" or "accept", a DKIM-Signature of
 * the expected domain was added, and the expected recipient (if any) was added.  Everything else is
 * a failure, and the exit status is then 1: a rate of unsigned messages cannot be had.  (--unsigned is
 * for messages that a careful signer leaves alone; there a signature is the failure.)
 *
 * Messages are encoded once; serial number, author and recipients are then written into a copy of
 * the envelope and header section for each message (Message-ID, Subject, queue id and the first line
 * of the body differ every time; authors and recipients recur).  The body beyond its first line is
 * shared by all messages, so that the load itself costs a few microseconds of CPU per message.
 *
 * Prints one line of JSON.  Latency is from the first octet of MAIL to the last octet of the answer
 * to the end of the message.
 *
 * Does not: verify signatures (--sample writes one message as it would be delivered, for a verifier);
 * apply changes of the body; speak TLS.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* --- the protocol's numbers (mfdef.h) --------------------------------------------------------- */

enum { VERSION = 6, ALL_ACTIONS = 0x1FF, ALL_PROTOCOL = 0x1FFFFF, CHUNK = 65535 };
enum {
    NOCONNECT = 0x1, NOHELO = 0x2, NOMAIL = 0x4, NORCPT = 0x8, NOBODY = 0x10, NOHDRS = 0x20,
    NOEOH = 0x40, NR_HDR = 0x80, NODATA = 0x200, NR_CONN = 0x1000, NR_HELO = 0x2000,
    NR_MAIL = 0x4000, NR_RCPT = 0x8000, NR_DATA = 0x10000, NR_EOH = 0x40000, NR_BODY = 0x80000,
    HDR_LEADSPC = 0x100000
};
enum stage { AT_CONNECT, AT_HELO, AT_MAIL, AT_RCPT, AT_DATA, AT_EOM, AT_EOH, STAGES };

/* --- options ---------------------------------------------------------------------------------- */

static struct {
    const char *address;
    long connections, messages, per_connection, size, headers, recipients, authors, pool;
    double seconds, warm_up, patience;
    const char *body, *domain, *archive, *sample, *recipient_domain;
    bool is_unsigned;
} option = {
    .connections = 8, .per_connection = 100, .size = 4096, .headers = 10, .recipients = 1,
    .authors = 50, .pool = 500, .seconds = 1, .patience = 60, .body = "text",
    .domain = "example.com", .recipient_domain = "partner00.example",
};

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *grown(void *old, size_t octets) {
    void *new = realloc(old, octets ? octets : 1);
    if (!new)
        fail("out of memory at %zu octets", octets);
    return new;
}

/* --- texts with holes ------------------------------------------------------------------------- */

/* In the texts below a control octet is a hole of fixed width that each message fills anew. */
#define SERIAL "\001"     /* ten digits, counts the messages of this run */
#define AUTHOR "\002"     /* four digits */
#define RECIPIENT "\003"  /* four digits, of the recipient being written */
static const int width_of[] = {0, 10, 4, 4};

struct hole {
    size_t at;
    int kind, recipient;
};

struct text {
    char *octets;
    size_t length, room;
    struct hole *holes;
    size_t hole_count, hole_room;
    int recipient; /* which one RECIPIENT stands for */
};

static void put(struct text *t, const void *octets, size_t length) {
    if (t->length + length > t->room)
        t->octets = grown(t->octets, t->room = (t->length + length) * 2);
    memcpy(t->octets + t->length, octets, length);
    t->length += length;
}

static void put_hole(struct text *t, int kind) {
    if (t->hole_count == t->hole_room)
        t->holes = grown(t->holes, (t->hole_room = t->hole_room * 2 + 16) * sizeof *t->holes);
    t->holes[t->hole_count++] = (struct hole){t->length, kind, t->recipient};
    put(t, "0000000000", width_of[kind]);
}

/* Without the NUL at its end. */
static void put_text(struct text *t, const char *source) {
    for (; *source; source++)
        if (*source <= 3)
            put_hole(t, *source);
        else
            put(t, source, 1);
}

static void put_string(struct text *t, const char *source) {
    put_text(t, source);
    put(t, "", 1);
}

static void put_number(struct text *t, uint32_t number) {
    number = htonl(number);
    put(t, &number, 4);
}

/* A packet: room for its length first, then its command; `close_packet` fills in the length. */
static size_t open_packet(struct text *t, char command) {
    size_t start = t->length;
    put_number(t, 0);
    put(t, &command, 1);
    return start;
}

static void close_packet(struct text *t, size_t start, size_t more) {
    uint32_t length = htonl(t->length - start - 4 + more);
    memcpy(t->octets + start, &length, 4);
}

static void put_digits(char *at, uint64_t number, int width) {
    while (width--) {
        at[width] = '0' + number % 10;
        number /= 10;
    }
}

/* Primes, so that authors and recipients recur in changing company. */
static void fill(char *copy, const struct text *t, uint64_t serial) {
    for (size_t i = 0; i < t->hole_count; i++) {
        const struct hole *hole = &t->holes[i];
        uint64_t number = serial;
        if (hole->kind == *AUTHOR)
            number = serial * 7 % option.authors;
        else if (hole->kind == *RECIPIENT)
            number = (serial * 13 + hole->recipient) % option.pool;
        put_digits(copy + hole->at, number, width_of[hole->kind]);
    }
}

/* --- the message ------------------------------------------------------------------------------ */

#define FROM_ADDRESS "user" AUTHOR "@%s"

struct field {
    const char *name;
    char value[400]; /* after the colon, without the space */
};

static struct field *fields;
static char author[200], recipient[200];
static char *body; /* beyond its first line, lines end in CRLF */
static size_t body_length;
#define FIRST_LINE SERIAL "\r\n"
enum { FIRST_LENGTH = 12 };

static uint32_t drawn(void) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static void make_fields(void) {
    const char *type = !strcmp(option.body, "html") ? "text/html; charset=us-ascii"
                       : !strcmp(option.body, "base64") ? "application/pdf; name=\"report.pdf\""
                       : "text/plain; charset=us-ascii";
    const char *encoding = strcmp(option.body, "base64") ? "7bit" : "base64";
    struct field known[] = {
        {"From", ""},
        {"To", ""},
        {"Subject", "Delivery note " SERIAL " for the order of last week, with a line that\n is folded once"},
        {"Date", "Thu, 15 Feb 2024 09:30:00 +0100"},
        {"Message-ID", ""},
        {"MIME-Version", "1.0"},
        {"Content-Type", ""},
        {"Content-Transfer-Encoding", ""},
        {"Received", ""},
        {"User-Agent", "Letterbox 4.2 (load)"},
    };
    long common = sizeof known / sizeof *known;
    snprintf(author, sizeof author, FROM_ADDRESS, option.domain);
    snprintf(recipient, sizeof recipient, "reader" RECIPIENT "@%s", option.recipient_domain);
    snprintf(known[0].value, 400, "\"Author " AUTHOR "\" <%s>", author);
    snprintf(known[1].value, 400, "\"Reader " RECIPIENT "\" <%s>", recipient);
    snprintf(known[4].value, 400, "<" SERIAL ".%d@%s>", (int)getpid(), option.domain);
    snprintf(known[6].value, 400, "%s", type);
    snprintf(known[7].value, 400, "%s", encoding);
    snprintf(known[8].value, 400,
             "from desk.%s (desk.%s [192.0.2.10])\n\tby mx.%s (Postfix) with ESMTPSA id " SERIAL
             "\n\tfor <%s>; Thu, 15 Feb 2024 09:30:01 +0100 (CET)",
             option.domain, option.domain, option.domain, recipient);
    fields = grown(NULL, (option.headers + common) * sizeof *fields);
    for (long i = 0; i < option.headers; i++) {
        static const char *const further = "X-Note";
        if (i < common)
            fields[i] = known[i];
        else {
            fields[i].name = further;
            snprintf(fields[i].value, sizeof fields[i].value, "%05ld", i);
        }
    }
}

/* One line of text into `line` (at most 200 octets), CRLF included; returns its length. */
static int text_line(char *line) {
    int length = 0, wanted = 55 + drawn() % 20;
    while (length < wanted) {
        for (int letters = 2 + drawn() % 8; letters--;)
            line[length++] = 'a' + drawn() % 26;
        line[length++] = ' ';
    }
    line[length - 1] = '\r';
    line[length++] = '\n';
    return length;
}

/* As programs write tables: indented, cells padded, trailing space now and then. */
static int html_line(char *line) {
    int length = sprintf(line, "%*s<td  class=\"c%u\">", 4 + (int)(drawn() % 29), "", drawn() % 10);
    for (int words = 1 + drawn() % 4; words--;) {
        for (int letters = 2 + drawn() % 7; letters--;)
            line[length++] = 'a' + drawn() % 26;
        length += sprintf(line + length, "%*s", 1 + (int)(drawn() % 5), "");
    }
    return length + sprintf(line + length, "</td>%s\r\n", drawn() % 4 ? "" : "   ");
}

static int base64_line(char *line) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 76; i++)
        line[i] = digits[drawn() % 64];
    memcpy(line + 76, "\r\n", 2);
    return 78;
}

/* As long as a line may be, with something to see at its end only. */
static int blank_line(char *line) {
    memset(line, ' ', 997);
    memcpy(line + 997, ".\r\n", 3);
    return 1000;
}

static void make_body(void) {
    int (*next)(char *) = !strcmp(option.body, "text") ? text_line
                          : !strcmp(option.body, "html") ? html_line
                          : !strcmp(option.body, "base64") ? base64_line
                          : !strcmp(option.body, "blanks") ? blank_line : NULL;
    if (!next && strcmp(option.body, "spaces"))
        fail("--body is text, html, base64, blanks or spaces, not %s", option.body);
    if (option.size < FIRST_LENGTH + 4)
        option.size = FIRST_LENGTH + 4;
    body_length = option.size - FIRST_LENGTH;
    body = grown(NULL, body_length + 1000);
    if (next)
        for (size_t length = 0; length < body_length;)
            length += next(body + length);
    else
        memset(body, ' ', body_length); /* one line; its last octet is no space */
    memcpy(body + body_length - 3, ".\r\n", 3);
}

/* --- what was negotiated, and the message in that form ---------------------------------------- */

/* What the octets of a segment are: written for each message, or shared by all. */
struct segment {
    const char *shared; /* NULL: the message's own */
    size_t offset, length, start; /* `offset` within the own octets; `start` within the message */
};

/* After so many octets of the message one answer is waited for. */
struct wait {
    size_t after;
    char command;
};

struct form {
    bool known;
    uint32_t actions, protocol;
    char *macros[STAGES];
    struct text opening, message; /* CONNECT and HELO; ABORT, MAIL to end of message */
    struct wait *opening_waits, *waits;
    size_t opening_wait_count, wait_count;
    struct segment *segments;
    size_t segment_count, total, eom_start; /* octets; where the end of message begins */
};

static struct form form;

static const char *const default_macros[STAGES] = {
    [AT_CONNECT] = "j {daemon_name} {daemon_addr} v _",
    [AT_HELO] = "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
    [AT_MAIL] = "i {auth_type} {auth_authen} {auth_author} {mail_addr} {mail_host} {mail_mailer}",
    [AT_RCPT] = "i {rcpt_addr} {rcpt_host} {rcpt_mailer}",
    [AT_DATA] = "i",
    [AT_EOM] = "i",
    [AT_EOH] = "i",
};

/* NULL when Postfix does not know the macro (then). */
static const char *macro_value(const char *name, bool has_queue_id) {
    static char mail_host[200];
    snprintf(mail_host, sizeof mail_host, "%s", option.domain);
    const char *const values[][2] = {
        {"i", has_queue_id ? "4L" SERIAL : NULL},
        {"j", "mx.example.com"},
        {"{daemon_name}", "submission"},
        {"{daemon_addr}", "192.0.2.1"},
        {"{daemon_port}", "587"},
        {"v", "Postfix 3.7.11"},
        {"_", "desk.example.com [192.0.2.10]"},
        {"{client_addr}", "192.0.2.10"},
        {"{client_name}", "desk.example.com"},
        {"{client_ptr}", "desk.example.com"},
        {"{client_port}", "40000"},
        {"{client_connections}", "1"},
        {"{auth_type}", "PLAIN"},
        {"{auth_authen}", "user" AUTHOR},
        {"{mail_addr}", author},
        {"{mail_host}", mail_host},
        {"{mail_mailer}", "smtp"},
        {"{rcpt_addr}", recipient},
        {"{rcpt_host}", option.recipient_domain},
        {"{rcpt_mailer}", "smtp"},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (!strcmp(values[i][0], name))
            return values[i][1];
    return NULL;
}

static void put_macros(struct text *t, enum stage stage, char command, bool has_queue_id) {
    char names[4096];
    /* An empty list of the milter's means Postfix's own one. */
    const char *wanted = form.macros[stage] && *form.macros[stage] ? form.macros[stage]
                                                                   : default_macros[stage];
    snprintf(names, sizeof names, "%s", wanted);
    size_t start = open_packet(t, 'D');
    put(t, &command, 1);
    for (char *rest, *name = strtok_r(names, " ,\t", &rest); name; name = strtok_r(NULL, " ,\t", &rest)) {
        const char *value = macro_value(name, has_queue_id);
        if (value) {
            put_string(t, name);
            put_string(t, value);
        }
    }
    close_packet(t, start, 0);
}

static void add_wait(struct wait **waits, size_t *count, size_t after, char command) {
    if ((*count & (*count - 1)) == 0)
        *waits = grown(*waits, (*count * 2 + 1) * sizeof **waits);
    (*waits)[(*count)++] = (struct wait){after, command};
}

/* Octets that every message has for itself are one segment until shared ones come between. */
static size_t own_in_segments;
static void close_segment(void) {
    struct text *t = &form.message;
    size_t length = t->length - own_in_segments;
    if (length) {
        form.segments = grown(form.segments, (form.segment_count + 1) * sizeof *form.segments);
        form.segments[form.segment_count++] =
            (struct segment){NULL, own_in_segments, length, form.total};
        form.total += length;
        own_in_segments = t->length;
    }
}

static void share(const char *octets, size_t length) {
    close_segment();
    form.segments = grown(form.segments, (form.segment_count + 1) * sizeof *form.segments);
    form.segments[form.segment_count++] = (struct segment){octets, 0, length, form.total};
    form.total += length;
}

static size_t message_length(void) {
    return form.total + form.message.length - own_in_segments;
}

static void answered(uint32_t no_reply, char command) {
    if (!(form.protocol & no_reply))
        add_wait(&form.waits, &form.wait_count, message_length(), command);
}

static void encode_opening(void) {
    struct text *t = &form.opening;
    size_t start;
    put_macros(t, AT_CONNECT, 'C', false);
    if (!(form.protocol & NOCONNECT)) {
        uint16_t port = htons(40000);
        start = open_packet(t, 'C');
        put_string(t, "desk.example.com");
        put(t, "4", 1);
        put(t, &port, 2);
        put_string(t, "192.0.2.10");
        close_packet(t, start, 0);
        if (!(form.protocol & NR_CONN))
            add_wait(&form.opening_waits, &form.opening_wait_count, t->length, 'C');
    }
    put_macros(t, AT_HELO, 'H', false);
    if (!(form.protocol & NOHELO)) {
        start = open_packet(t, 'H');
        put_string(t, "desk.example.com");
        close_packet(t, start, 0);
        if (!(form.protocol & NR_HELO))
            add_wait(&form.opening_waits, &form.opening_wait_count, t->length, 'H');
    }
}

static void encode_envelope(struct text *t) {
    char path[202];
    size_t start;
    put_macros(t, AT_MAIL, 'M', false);
    if (!(form.protocol & NOMAIL)) {
        snprintf(path, sizeof path, "<%.198s>", author);
        start = open_packet(t, 'M');
        put_string(t, path);
        close_packet(t, start, 0);
        answered(NR_MAIL, 'M');
    }
    snprintf(path, sizeof path, "<%.198s>", recipient);
    for (t->recipient = 0; t->recipient < option.recipients; t->recipient++) {
        put_macros(t, AT_RCPT, 'R', t->recipient > 0);
        if (!(form.protocol & NORCPT)) {
            start = open_packet(t, 'R');
            put_string(t, path);
            close_packet(t, start, 0);
            answered(NR_RCPT, 'R');
        }
    }
    t->recipient = 0;
    put_macros(t, AT_DATA, 'T', true);
    if (!(form.protocol & NODATA)) {
        close_packet(t, open_packet(t, 'T'), 0);
        answered(NR_DATA, 'T');
    }
}

static void encode_header_section(struct text *t) {
    for (long i = 0; i < option.headers && !(form.protocol & NOHDRS); i++) {
        put_macros(t, AT_EOH, 'L', true);
        size_t start = open_packet(t, 'L');
        put_string(t, fields[i].name);
        if (form.protocol & HDR_LEADSPC)
            put(t, " ", 1);
        put_string(t, fields[i].value);
        close_packet(t, start, 0);
        answered(NR_HDR, 'L');
    }
    if (!(form.protocol & NOEOH)) {
        put_macros(t, AT_EOH, 'N', true);
        close_packet(t, open_packet(t, 'N'), 0);
        answered(NR_EOH, 'N');
    }
}

static void encode_body(struct text *t) {
    size_t sent = 0, total = FIRST_LENGTH + body_length;
    while (sent < total && !(form.protocol & NOBODY)) {
        size_t length = total - sent < CHUNK ? total - sent : CHUNK;
        size_t own = sent ? 0 : FIRST_LENGTH;
        put_macros(t, AT_EOM, 'B', true);
        size_t start = open_packet(t, 'B');
        close_packet(t, start, length);
        if (own)
            put_text(t, FIRST_LINE);
        share(body + sent + own - FIRST_LENGTH, length - own);
        sent += length;
        answered(NR_BODY, 'B');
    }
    form.eom_start = message_length();
    put_macros(t, AT_EOM, 'E', true);
    close_packet(t, open_packet(t, 'E'), 0);
    close_segment();
    add_wait(&form.waits, &form.wait_count, form.total, 'E');
}

static void encode(void) {
    struct text *t = &form.message;
    encode_opening();
    close_packet(t, open_packet(t, 'A'), 0); /* of the message before; the first one leaves it out */
    encode_envelope(t);
    encode_header_section(t);
    encode_body(t);
    form.known = true;
}

static uint32_t number_at(const char *octets) {
    uint32_t number;
    memcpy(&number, octets, 4);
    return ntohl(number);
}

/* Payload of SMFIC_OPTNEG: version, actions, protocol, then stage and list, again and again. */
static void learn(const char *payload, size_t length) {
    if (length < 12 || number_at(payload) > VERSION)
        fail("the milter negotiates a version that was not offered");
    uint32_t actions = number_at(payload + 4), protocol = number_at(payload + 8);
    if (form.known) {
        if (actions != form.actions || protocol != form.protocol)
            fail("the milter negotiates differently on each connection");
        return;
    }
    if (actions & ~ALL_ACTIONS || protocol & ~ALL_PROTOCOL)
        fail("the milter wants what was not offered: %#x %#x", actions, protocol);
    form.actions = actions;
    form.protocol = protocol;
    for (size_t at = 12; at + 4 < length; at += 5 + strlen(payload + at + 4)) {
        uint32_t stage = number_at(payload + at);
        if (stage >= STAGES || !memchr(payload + at + 4, 0, length - at - 4))
            fail("the milter's macro lists cannot be read");
        form.macros[stage] = strdup(payload + at + 4);
    }
    encode();
}

/* --- connections ------------------------------------------------------------------------------ */

enum phase { NEGOTIATING, OPENING, READY, SENDING };

struct connection {
    int socket;
    enum phase phase;
    char *own;             /* this message's own octets */
    size_t sent;           /* octets of what is being sent */
    size_t segment, wait;  /* the first not sent completely; the first answer not had */
    bool is_writing;       /* epoll tells when there is room */
    bool is_signed, is_copied;
    long on_connection;    /* messages since it was opened */
    uint64_t serial;
    double begun, progress;
    char *read;
    size_t read_length, read_room;
};

static struct connection *connections;
static int poller;
static uint64_t next_serial;
static long begun, finished, counted, failures, opened, in_flight, lost;
static double first_begun, last_finished;
static char first_failure[300];
static float *latencies;
static bool is_started, is_sampled;

static void note_failure(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (!failures++)
        vsnprintf(first_failure, sizeof first_failure, format, arguments);
    va_end(arguments);
}

static int connected_socket(void) {
    char copy[200];
    int one = 1, made;
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_in internet;
    } address = {0};
    socklen_t length;
    snprintf(copy, sizeof copy, "%s", option.address);
    if (!strncmp(copy, "unix:", 5)) {
        address.local.sun_family = AF_UNIX;
        if (strlen(copy + 5) >= sizeof address.local.sun_path)
            fail("%s is too long for a UNIX socket", copy + 5);
        strcpy(address.local.sun_path, copy + 5);
        length = sizeof address.local;
    } else {
        char *port = strrchr(copy, ':');
        if (strncmp(copy, "inet:", 5) || port < copy + 5)
            fail("the address is unix:/path or inet:address:port, not %s", option.address);
        *port++ = 0;
        address.internet.sin_family = AF_INET;
        address.internet.sin_port = htons(atoi(port));
        if (inet_pton(AF_INET, copy + 5, &address.internet.sin_addr) != 1)
            fail("%s is no IPv4 address", copy + 5);
        length = sizeof address.internet;
    }
    made = socket(address.any.sa_family, SOCK_STREAM, 0);
    /* Blocking: a full backlog then makes us wait as an MTA does. */
    if (made < 0 || connect(made, &address.any, length))
        fail("nobody answers at %s: %s", option.address, strerror(errno));
    fcntl(made, F_SETFL, O_NONBLOCK);
    if (address.any.sa_family == AF_INET)
        setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return made;
}

static void advance(struct connection *c);

static void open_connection(struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    struct text offer = {0};
    c->socket = connected_socket();
    c->phase = NEGOTIATING;
    c->sent = c->segment = c->wait = c->on_connection = c->read_length = 0;
    c->is_writing = false;
    c->progress = now();
    opened++;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->socket, &event))
        fail("epoll_ctl: %s", strerror(errno));
    size_t start = open_packet(&offer, 'O');
    put_number(&offer, VERSION);
    put_number(&offer, ALL_ACTIONS);
    put_number(&offer, ALL_PROTOCOL);
    close_packet(&offer, start, 0);
    if (write(c->socket, offer.octets, offer.length) != (ssize_t)offer.length)
        fail("the milter took no negotiation: %s", strerror(errno));
    free(offer.octets);
}

static void close_connection(struct connection *c, bool is_polite) {
    static const char goodbye[] = "\0\0\0\1A\0\0\0\1A\0\0\0\1Q";
    if (is_polite && write(c->socket, goodbye, 15) != 15)
        note_failure("QUIT could not be sent: %s", strerror(errno));
    close(c->socket);
    c->socket = -1;
}

static bool is_over(void) {
    if (option.messages)
        return begun >= option.messages;
    return begun && now() - first_begun >= option.warm_up + option.seconds;
}

static void begin_message(struct connection *c) {
    const struct text *t = &form.message;
    if (!c->own) {
        c->own = grown(NULL, t->length);
        memcpy(c->own, t->octets, t->length);
    }
    c->serial = ++next_serial;
    fill(c->own, t, c->serial);
    c->phase = SENDING;
    c->sent = c->on_connection ? 0 : 5; /* the first one has no ABORT before it */
    c->segment = c->wait = 0;
    c->is_signed = c->is_copied = false;
    c->begun = c->progress = now();
    if (!begun++)
        first_begun = c->begun;
    c->on_connection++;
    in_flight++;
    advance(c);
}

static void start_next(struct connection *c) {
    c->phase = READY;
    if (!is_started)
        return;
    if (is_over()) {
        close_connection(c, true);
    } else if (c->on_connection >= option.per_connection) {
        close_connection(c, true);
        open_connection(c);
    } else {
        begin_message(c);
    }
}

/* Writes up to octet `limit`; false when the socket is full. */
static bool write_segments(struct connection *c, size_t limit) {
    while (c->sent < limit) {
        struct iovec pieces[256];
        int count = 0;
        size_t at = c->sent, i = c->segment;
        for (; at < limit && count < 256; i++) {
            const struct segment *s = &form.segments[i];
            size_t skipped = at - s->start, length = s->length - skipped;
            const char *octets = (s->shared ? s->shared : c->own + s->offset) + skipped;
            if (length > limit - at)
                length = limit - at;
            pieces[count++] = (struct iovec){(void *)octets, length};
            at += length;
        }
        ssize_t written = writev(c->socket, pieces, count);
        if (written < 0)
            return errno != EAGAIN ? (c->sent = limit, true) : false; /* reading tells of the end */
        c->sent += written;
        c->progress = now();
        while (c->segment < form.segment_count &&
               form.segments[c->segment].start + form.segments[c->segment].length <= c->sent)
            c->segment++;
    }
    return true;
}

static void want_room(struct connection *c, bool wanted) {
    struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = c};
    if (wanted != c->is_writing)
        epoll_ctl(poller, EPOLL_CTL_MOD, c->socket, &event);
    c->is_writing = wanted;
}

/* Sends up to the next answer that is waited for. */
static void advance(struct connection *c) {
    if (c->phase == OPENING) {
        size_t limit = c->wait < form.opening_wait_count ? form.opening_waits[c->wait].after
                                                         : form.opening.length;
        /* A few hundred octets into an empty socket: it has room. */
        if (limit > c->sent &&
            write(c->socket, form.opening.octets + c->sent, limit - c->sent) != (ssize_t)(limit - c->sent))
            fail("CONNECT could not be sent: %s", strerror(errno));
        c->sent = limit;
        if (c->wait == form.opening_wait_count)
            start_next(c);
    } else if (c->phase == SENDING) {
        want_room(c, !write_segments(c, form.waits[c->wait].after));
    }
}

static void end_message(struct connection *c, const char *trouble, char answer) {
    double t = now();
    in_flight--;
    if (trouble)
        note_failure("%s (answer '%c')", trouble, answer);
    finished++;
    if (t - first_begun >= option.warm_up) {
        if ((counted & (counted - 1)) == 0)
            latencies = grown(latencies, (counted * 2 + 1) * sizeof *latencies);
        latencies[counted++] = t - c->begun;
    }
    last_finished = t;
}

/* The message as the next hop would get it, the added field above all. */
static void write_sample(struct connection *c, const char *value, size_t length) {
    FILE *file = fopen(option.sample, "wb");
    struct text t = {0};
    if (!file)
        fail("%s: %s", option.sample, strerror(errno));
    put_text(&t, "DKIM-Signature:");
    if (!(form.protocol & HDR_LEADSPC))
        put_text(&t, " ");
    put(&t, value, length);
    for (long i = 0; i < option.headers; i++) {
        put_text(&t, "\n");
        put_text(&t, fields[i].name);
        put_text(&t, ": ");
        put_text(&t, fields[i].value);
    }
    put_text(&t, "\n\n");
    fill(t.octets, &t, c->serial);
    for (size_t i = 0; i < t.length; i++) {
        if (t.octets[i] == '\r')
            continue;
        if (t.octets[i] == '\n')
            fputc('\r', file);
        fputc(t.octets[i], file);
    }
    fprintf(file, "%010llu\r\n", (unsigned long long)c->serial);
    fwrite(body, 1, body_length, file);
    if (fclose(file))
        fail("%s: %s", option.sample, strerror(errno));
    is_sampled = true;
}

/* 'i' (position, name, value) and 'h' (name, value). */
static void note_field(struct connection *c, const char *payload, size_t length, size_t skip) {
    char domain_tag[210];
    if (length <= skip || payload[length - 1])
        return;
    const char *name = payload + skip, *value = name + strlen(name);
    if (value == payload + length - 1 || strcasecmp(name, "DKIM-Signature"))
        return;
    snprintf(domain_tag, sizeof domain_tag, "d=%s", option.domain);
    const char *found = strstr(++value, domain_tag);
    if (!found || !strchr("; \t\r\n", found[strlen(domain_tag)]) || !strstr(value, "bh="))
        return;
    c->is_signed = true;
    if (option.sample && !is_sampled)
        write_sample(c, value, strlen(value));
}

static void note_recipient(struct connection *c, const char *payload, size_t length) {
    char bracketed[300];
    if (!option.archive || !length || payload[length - 1])
        return;
    snprintf(bracketed, sizeof bracketed, "<%s>", option.archive);
    if (!strcmp(payload, option.archive) || !strcmp(payload, bracketed))
        c->is_copied = true;
}

static void take_final(struct connection *c, char answer) {
    const char *trouble = NULL;
    if (answer != 'c' && answer != 'a')
        trouble = "the message was not accepted";
    else if (form.waits[c->wait].command != 'E')
        trouble = "the milter decided before the end of the message";
    else if (!c->is_signed && !option.is_unsigned)
        trouble = "no DKIM-Signature of the domain was added";
    else if (c->is_signed && option.is_unsigned)
        trouble = "a DKIM-Signature was added to what should not be signed";
    else if (option.archive && !c->is_copied)
        trouble = "the archive recipient was not added";
    end_message(c, trouble, answer);
    if (form.waits[c->wait].command != 'E') {
        /* What was not sent is not missed; a new connection keeps the state simple. */
        close_connection(c, true);
        if (!is_over())
            open_connection(c);
        return;
    }
    start_next(c);
}

static void take_packet(struct connection *c, char command, const char *payload, size_t length) {
    if (c->phase == NEGOTIATING) {
        if (command != 'O')
            fail("the milter answered the negotiation with '%c'", command);
        learn(payload, length);
        c->phase = OPENING;
        c->sent = 0;
        advance(c);
    } else if (c->phase == OPENING) {
        if (command != 'c' || c->wait >= form.opening_wait_count)
            fail("the milter answered CONNECT or HELO with '%c'", command);
        c->wait++;
        advance(c);
    } else if (c->phase == SENDING && c->sent >= form.waits[c->wait].after) {
        char event = form.waits[c->wait].command;
        if (event == 'E' && command == 'i')
            note_field(c, payload, length, 4);
        else if (event == 'E' && command == 'h')
            note_field(c, payload, length, 0);
        else if (event == 'E' && (command == '+' || command == '2'))
            note_recipient(c, payload, length);
        else if (event == 'E' && strchr("-bemq", command))
            ; /* other changes are the milter's own business */
        else if (command == 'p')
            ; /* patience */
        else if (event != 'E' && (command == 'c' || (command == 's' && event == 'B'))) {
            c->wait++;
            if (command == 's') { /* no more of the body */
                c->wait = form.wait_count - 1;
                c->sent = form.eom_start;
                while (form.segments[c->segment].start + form.segments[c->segment].length <= c->sent)
                    c->segment++;
            }
            advance(c);
        } else
            take_final(c, command);
    } else
        fail("the milter spoke unasked: '%c'", command);
}

static void lose(struct connection *c) {
    if (c->phase == SENDING)
        end_message(c, "the milter closed the connection", '-');
    else
        note_failure("the milter closed the connection between messages");
    close_connection(c, false);
    if (++lost > 100)
        fail("the milter closed %ld connections: %s", lost, first_failure);
    if (!is_over())
        open_connection(c);
}

static void read_packets(struct connection *c) {
    if (c->read_room - c->read_length < 4096)
        c->read = grown(c->read, c->read_room = c->read_room * 2 + 16384);
    ssize_t got = read(c->socket, c->read + c->read_length, c->read_room - c->read_length);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        lose(c);
        return;
    }
    size_t at = 0, had = c->read_length += got;
    int socket = c->socket;
    c->progress = now();
    while (had - at >= 5) {
        size_t length = number_at(c->read + at);
        if (!length || length > 1 << 24)
            fail("a packet claims %zu octets", length);
        if (had - at < 4 + length)
            break;
        size_t packet = at;
        at += 4 + length;
        take_packet(c, c->read[packet + 4], c->read + packet + 5, length - 1);
        if (c->socket != socket || c->phase == NEGOTIATING)
            return; /* another connection now; nothing of the old one counts */
    }
    memmove(c->read, c->read + at, c->read_length - at);
    c->read_length -= at;
}

/* --- the run ---------------------------------------------------------------------------------- */

static bool all_ready(void) {
    for (long i = 0; i < option.connections; i++)
        if (connections[i].phase != READY)
            return false;
    return true;
}

static void give_up_when_stuck(void) {
    double t = now();
    for (long i = 0; i < option.connections; i++)
        if (connections[i].socket >= 0 && connections[i].phase != READY &&
            t - connections[i].progress > option.patience)
            fail("the milter said nothing for %g s (phase %d)", option.patience, connections[i].phase);
}

static bool any_open(void) {
    for (long i = 0; i < option.connections; i++)
        if (connections[i].socket >= 0)
            return true;
    return false;
}

static void serve(int milliseconds) {
    struct epoll_event events[64];
    int count = epoll_wait(poller, events, 64, milliseconds);
    if (count < 0 && errno != EINTR)
        fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->socket < 0)
            continue;
        if (events[i].events & EPOLLOUT)
            advance(c);
        if (c->socket >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            read_packets(c);
    }
    if (!count)
        give_up_when_stuck();
}

/* The clock starts when every connection has been opened. */
static void run(void) {
    poller = epoll_create1(0);
    connections = calloc(option.connections, sizeof *connections);
    for (long i = 0; i < option.connections; i++)
        open_connection(&connections[i]);
    while (!all_ready())
        serve(1000);
    is_started = true;
    for (long i = 0; i < option.connections; i++)
        if (is_over())
            close_connection(&connections[i], true);
        else
            begin_message(&connections[i]);
    while (any_open())
        serve(1000);
}

static int by_size(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static double percentile(double share) {
    return counted ? latencies[(long)(share * (counted - 1) + 0.5)] * 1e3 : 0;
}

static void report(void) {
    struct rusage usage;
    double seconds = last_finished - first_begun - option.warm_up, cpu;
    if (!counted && option.warm_up > 0)
        fail("nothing came back after the warm-up of %g s", option.warm_up);
    getrusage(RUSAGE_SELF, &usage);
    cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
          (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    qsort(latencies, counted, sizeof *latencies, by_size);
    for (char *at = first_failure; *at; at++)
        if (*at == '"' || *at == '\\' || *at < ' ' || *at == 127)
            *at = '?';
    printf("{\"messages\": %ld, \"counted\": %ld, \"failures\": %ld, \"first_failure\": \"%s\", \"seconds\": %.6f, "
           "\"rate\": %.2f, \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, "
           "\"own_cpu_seconds\": %.6f, \"connections\": %ld, \"sessions\": %ld, \"octets\": %zu, "
           "\"headers\": %ld, \"recipients\": %ld, \"body\": \"%s\", \"body_octets\": %ld, "
           "\"answers_awaited\": %zu, \"actions\": %u, \"protocol\": %u}\n",
           finished, counted, failures, first_failure, seconds, seconds > 0 ? counted / seconds : 0,
           percentile(0.5), percentile(0.9), percentile(0.99), percentile(1), cpu,
           option.connections, opened, form.total, option.headers, option.recipients, option.body,
           option.size, form.wait_count, form.actions, form.protocol);
}

static void usage(void) {
    puts("usage: load [options] unix:/path | inet:address:port\n"
         "  --connections N      at once (8)\n"
         "  --seconds S          begin messages for so long (1), or\n"
         "  --messages N         so many\n"
         "  --warm-up S          for so long before that (0); what ends in it counts for no rate\n"
         "  --per-connection N   messages of one SMTP session (100)\n"
         "  --size N             octets of body (4096)\n"
         "  --body KIND          text, html, base64, blanks (lines of 998 octets, nearly all\n"
         "                       spaces), spaces (one such line)\n"
         "  --headers N          header fields (10)\n"
         "  --recipients N       (1)\n"
         "  --authors N          different authors (50)\n"
         "  --pool N             different recipients (500)\n"
         "  --domain D           of the authors; must be signed for (example.com)\n"
         "  --recipient-domain D (partner00.example)\n"
         "  --archive ADDRESS    a recipient that must be added\n"
         "  --unsigned           a signature is a failure instead\n"
         "  --sample FILE        write the first signed message there\n"
         "  --patience S         seconds without progress before giving up (60)");
}

static double number(const char *text, double lowest) {
    char *end;
    double value = strtod(text, &end);
    if (*end || value < lowest)
        fail("a number of at least %g was expected, not %s", lowest, text);
    return value;
}

static void read_options(int count, char **words) {
    static const struct option known[] = {
        {"connections", 1, 0, 'c'}, {"seconds", 1, 0, 's'},    {"messages", 1, 0, 'm'},
        {"warm-up", 1, 0, 'w'},     {"size", 1, 0, 'o'},       {"body", 1, 0, 'b'},
        {"headers", 1, 0, 'h'},     {"recipients", 1, 0, 'r'}, {"authors", 1, 0, 'a'},
        {"pool", 1, 0, 'p'},        {"domain", 1, 0, 'd'},     {"archive", 1, 0, 'v'},
        {"sample", 1, 0, 'S'},      {"patience", 1, 0, 't'},   {"help", 0, 0, '?'},
        {"per-connection", 1, 0, 'n'}, {"recipient-domain", 1, 0, 'D'}, {"unsigned", 0, 0, 'u'},
        {0, 0, 0, 0},
    };
    for (int letter; (letter = getopt_long(count, words, "", known, NULL)) != -1;) {
        switch (letter) {
        case 'c': option.connections = number(optarg, 1); break;
        case 's': option.seconds = number(optarg, 0.001); break;
        case 'w': option.warm_up = number(optarg, 0); break;
        case 'm': option.messages = number(optarg, 1); break;
        case 'n': option.per_connection = number(optarg, 1); break;
        case 'o': option.size = number(optarg, 1); break;
        case 'b': option.body = optarg; break;
        case 'h': option.headers = number(optarg, 1); break;
        case 'r': option.recipients = number(optarg, 1); break;
        case 'a': option.authors = number(optarg, 1); break;
        case 'p': option.pool = number(optarg, 1); break;
        case 'd': option.domain = optarg; break;
        case 'D': option.recipient_domain = optarg; break;
        case 'v': option.archive = optarg; break;
        case 'S': option.sample = optarg; break;
        case 'u': option.is_unsigned = true; break;
        case 't': option.patience = number(optarg, 0.1); break;
        default: usage(); exit(letter == '?' && !strcmp(words[count - 1], "--help") ? 0 : 2);
        }
    }
    if (optind != count - 1) {
        usage();
        exit(2);
    }
    option.address = words[optind];
    if (strlen(option.domain) > 100 || strlen(option.recipient_domain) > 100)
        fail("a domain of over 100 characters");
    /* 5,000 recipients of one message are different ones. */
    if (option.pool < option.recipients)
        option.pool = option.recipients;
}

int main(int count, char **words) {
    read_options(count, words);
    make_fields();
    make_body();
    run();
    report();
    return failures ? 1 : 0;
}
