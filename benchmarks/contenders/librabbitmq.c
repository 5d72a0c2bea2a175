/* librabbitmq, both sides: what is left when there is no interpreter. `librabbitmq.py` builds it twice: as a shared library
 * for the client, which the driver calls in its own process, and as a program, the worker.
 *
 * As the library is: one write per message, one per acknowledgement. What it does for an application and what a framework
 * must do (codec, signature, error handling) is not here.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <amqp.h>
#include <amqp_tcp_socket.h>

#define CHANNEL 1
#define FRAME_MAX 131072
#define WINDOW 1000 /* publishes that may wait for their confirm */
#define PERSISTENT 2
#define DIRECT_REPLY_TO "amq.rabbitmq.reply-to"

static amqp_connection_state_t connection;

static int failed(const char *what) {
    fprintf(stderr, "librabbitmq: %s\n", what);
    return -1;
}

static int answered(const char *what) {
    amqp_rpc_reply_t reply = amqp_get_rpc_reply(connection);
    return reply.reply_type == AMQP_RESPONSE_NORMAL ? 0 : failed(what);
}

static int open_connection(const char *host, int port, const char *vhost, const char *user, const char *password) {
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (!socket || amqp_socket_open(socket, host, port)) return failed("no connection");
    amqp_rpc_reply_t reply =
        amqp_login(connection, vhost, 0, FRAME_MAX, 0, AMQP_SASL_METHOD_PLAIN, user, password);
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) return failed("login refused");
    amqp_channel_open(connection, CHANNEL);
    return answered("no channel");
}

/* One thing that the broker said: a delivery, read to its end, or a confirm. */
typedef struct {
    amqp_method_number_t method;
    uint64_t tag;
    int multiple;
    amqp_basic_properties_t *properties;
} event_t;

static int next_event(event_t *event) {
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection);
    do {
        if (amqp_simple_wait_frame(connection, &frame) != AMQP_STATUS_OK) return failed("connection lost");
    } while (frame.frame_type != AMQP_FRAME_METHOD);
    event->method = frame.payload.method.id;
    event->properties = NULL;
    if (event->method == AMQP_BASIC_ACK_METHOD) {
        amqp_basic_ack_t *ack = frame.payload.method.decoded;
        event->tag = ack->delivery_tag;
        event->multiple = ack->multiple;
        return 0;
    }
    if (event->method != AMQP_BASIC_DELIVER_METHOD) return failed(amqp_method_name(event->method));
    event->tag = ((amqp_basic_deliver_t *)frame.payload.method.decoded)->delivery_tag;
    if (amqp_simple_wait_frame(connection, &frame) != AMQP_STATUS_OK) return failed("connection lost");
    event->properties = frame.payload.properties.decoded;
    for (uint64_t missing = frame.payload.properties.body_size; missing; missing -= frame.payload.body_fragment.len)
        if (amqp_simple_wait_frame(connection, &frame) != AMQP_STATUS_OK) return failed("connection lost");
    return 0;
}

/* ------------------------------------------------------------------------------------------------------------ client */

static amqp_bytes_t queue_name, body;
static int confirming, consuming;
static uint64_t published, confirmed; /* confirmed: all tags up to this one */
static unsigned char early[WINDOW];   /* tags above it that were confirmed out of turn, modulo WINDOW */
static int returned;                  /* replies that came */

int bench_open(const char *host, int port, const char *vhost, const char *user, const char *password, const char *queue,
               const char *payload, int size, int confirm) {
    if (open_connection(host, port, vhost, user, password)) return -1;
    queue_name = amqp_bytes_malloc_dup(amqp_cstring_bytes(queue));
    body = amqp_bytes_malloc(size);
    memcpy(body.bytes, payload, size);
    confirming = confirm;
    if (confirming) {
        amqp_confirm_select(connection, CHANNEL);
        if (answered("confirm.select")) return -1;
    }
    return 0;
}

int bench_declare(void) {
    amqp_queue_declare(connection, CHANNEL, queue_name, 0, 1, 0, 0, amqp_empty_table);
    return answered("queue.declare");
}

static int take(void) {
    event_t event;
    if (next_event(&event)) return -1;
    if (event.method == AMQP_BASIC_DELIVER_METHOD) {
        returned++;
        return 0;
    }
    if (event.multiple)
        while (confirmed < event.tag) early[++confirmed % WINDOW] = 0;
    else
        early[event.tag % WINDOW] = 1;
    while (early[(confirmed + 1) % WINDOW]) early[++confirmed % WINDOW] = 0;
    return 0;
}

static int send_one(const char *reply_to) {
    char correlation[24];
    amqp_basic_properties_t properties;
    properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
    properties.content_type = amqp_cstring_bytes("text/plain");
    properties.delivery_mode = PERSISTENT;
    if (reply_to) {
        snprintf(correlation, sizeof correlation, "%llu", (unsigned long long)published + 1);
        properties._flags |= AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG;
        properties.reply_to = amqp_cstring_bytes(reply_to);
        properties.correlation_id = amqp_cstring_bytes(correlation);
    }
    while (confirming && published - confirmed >= WINDOW - 1)
        if (take()) return -1;
    if (amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue_name, 0, 0, &properties, body) != AMQP_STATUS_OK)
        return failed("basic.publish");
    published++;
    return 0;
}

static int settle(void) {
    while (confirming && confirmed < published)
        if (take()) return -1;
    return 0;
}

/* Publish `count` messages; with confirms, until the last one has come. */
int bench_publish(int count) {
    for (int i = 0; i < count; i++)
        if (send_one(NULL)) return -1;
    return settle();
}

/* Call `count` times, at most `in_flight` at once, until the last reply is there. */
int bench_collect(int count, int in_flight) {
    if (!consuming) {
        amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes(DIRECT_REPLY_TO), amqp_empty_bytes, 0, 1, 0,
                           amqp_empty_table);
        if (answered("basic.consume")) return -1;
        consuming = 1;
    }
    returned = 0;
    for (int sent = 0; returned < count;) {
        while (sent < count && sent - returned < in_flight) {
            if (send_one(DIRECT_REPLY_TO)) return -1;
            sent++;
        }
        if (take()) return -1;
    }
    return settle();
}

void bench_close(void) {
    amqp_connection_close(connection, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(connection);
}

/* ------------------------------------------------------------------------------------------------------------ worker */

/* The slot that `counting.py` reads: tasks finished, and when the latest one was. */
static volatile int64_t *slot(const char *folder) {
    char fresh[4096], path[4096];
    const int64_t empty[2] = {0, 0};
    snprintf(fresh, sizeof fresh, "%s/%d.new", folder, (int)getpid());
    snprintf(path, sizeof path, "%s/%d", folder, (int)getpid());
    int file = open(fresh, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, empty, sizeof empty) != (ssize_t)sizeof empty || rename(fresh, path)) return NULL;
    void *mapped = mmap(NULL, sizeof empty, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return mapped == MAP_FAILED ? NULL : mapped;
}

static int answer(const amqp_basic_properties_t *request) {
    amqp_basic_properties_t properties;
    properties._flags = AMQP_BASIC_CORRELATION_ID_FLAG;
    properties.correlation_id = request->correlation_id;
    return amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, request->reply_to, 0, 0, &properties,
                              amqp_cstring_bytes("200"));
}

static int work(const char *queue, int prefetch, volatile int64_t *finished) {
    amqp_basic_qos(connection, CHANNEL, 0, prefetch, 0);
    if (answered("basic.qos")) return -1;
    amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    if (answered("basic.consume")) return -1;
    for (event_t event; !next_event(&event);) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        finished[1] = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        finished[0]++;
        if (event.properties->_flags & AMQP_BASIC_REPLY_TO_FLAG && answer(event.properties)) return failed("reply");
        if (amqp_basic_ack(connection, CHANNEL, event.tag, 0)) return failed("basic.ack");
    }
    return -1;
}

int main(int count, char **words) {
    if (count != 8) return failed("usage: HOST PORT VHOST USER PASSWORD QUEUE PREFETCH"), 2;
    const char *folder = getenv("BENCH_COUNTER");
    volatile int64_t *finished = folder ? slot(folder) : NULL;
    if (!finished) return failed("no counter"), 2;
    if (open_connection(words[1], atoi(words[2]), words[3], words[4], words[5])) return 1;
    return work(words[6], atoi(words[7]), finished) ? 1 : 0;
}
