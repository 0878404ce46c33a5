/* A load over HTTP/1.1 on loopback that takes little CPU itself:
 *
 *     load open PORT CONNECTIONS SECONDS < PLAN > ANSWERS
 *     load closed PORT CLIENTS SECONDS < PLAN > ANSWERS
 *
 * open: each request is sent when it is due, whatever came back by then, on an idle connection, else on another, up to CONNECTIONS.
 * closed: each client sends the plan's next request when it has its answer, from its beginning again after the last one. Nothing
 * is sent after SECONDS; it ends when all are answered, at the latest 10 s later.
 *
 * PLAN, numbers in the machine's order: how many messages there are (uint32), each its size (uint32) and its bytes, whole requests;
 * how many requests (uint32), each when it is due (double, seconds from the start) and its message (uint32). ANSWERS, for each
 * request: its number in the plan (uint32), the answer's status (uint32, 0: there was no connection left, or it was lost), when it
 * was due or, if closed, sent, and when the answer was whole (double, seconds from the start), the answer's size (uint32) and its
 * bytes, head and all. What it was late with sending counts as time, too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, BURST = 64 };

struct message {
  uint32_t size;
  char *bytes;
};

struct request {
  double due;
  uint32_t message;
};

struct connection {
  int socket; /* -1: none */
  int asked;  /* a request is on its way */
  uint32_t request;
  double due;
  size_t size, room;
  char *answer;
};

static struct message *messages;
static struct request *requests;
static uint32_t message_count, request_count;
static struct sockaddr_in server;
static struct connection *connections, **free_ones; /* not asked */
static int free_count, under_way, poller;
static double start;
static char *told; /* what is written in the end: a full pipe must not hold anything up */
static size_t told_size, told_room;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9 - start;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void put(const void *bytes, size_t size) {
  if (told_size + size > told_room && !(told = realloc(told, told_room = 2 * (told_room + size)))) fail("memory");
  if (size) memcpy(told + told_size, bytes, size);
  told_size += size;
}

static void tell(uint32_t request, uint32_t status, double due, const char *answer, uint32_t size) {
  double ended = now();
  put(&request, sizeof request), put(&status, sizeof status), put(&due, sizeof due), put(&ended, sizeof ended);
  put(&size, sizeof size), put(answer, size);
}

static void freed(struct connection *c) {
  c->size = 0, c->asked = 0;
  free_ones[free_count++] = c;
}

static void hang_up(struct connection *c) {
  close(c->socket);
  c->socket = -1;
}

static void lost(struct connection *c) {
  int asked = c->asked;
  hang_up(c);
  if (!asked) return; /* it is among the free ones, and will be opened again */
  tell(c->request, 0, c->due, NULL, 0);
  under_way--;
  freed(c);
}

static void ask(struct connection *c) {
  struct message *m = &messages[requests[c->request].message];
  if (send(c->socket, m->bytes, m->size, MSG_NOSIGNAL) != (ssize_t)m->size) lost(c);
}

static void open_one(struct connection *c) {
  int yes = 1;
  c->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->socket < 0) fail("socket");
  setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (connect(c->socket, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) fail("connect");
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->socket, &event);
}

static void begin(uint32_t request, double due) {
  if (!free_count) {
    tell(request, 0, due, NULL, 0);
    return;
  }
  struct connection *c = free_ones[--free_count];
  c->request = request, c->due = due, c->asked = 1, under_way++;
  if (c->socket < 0)
    open_one(c); /* asks once it is connected */
  else
    ask(c);
}

/* What follows a name in an answer's head, which ends at `body`; NULL: it is not there. */
static const char *header(struct connection *c, char *body, const char *name) {
  *body = 0;
  const char *found = strcasestr(c->answer, name);
  *body = '\r';
  return found ? found + strlen(name) : NULL;
}

/* Where an answer ends, as far as it is known; 0 before that. */
static size_t whole(struct connection *c, char *body) {
  const char *length = header(c, body, "\ncontent-length:");
  if (length) return body + 4 - c->answer + atol(length);
  if (c->size >= 7 && !memcmp(c->answer + c->size - 7, "\r\n0\r\n\r\n", 7)) return c->size; /* in chunks */
  return 0;
}

static void receive(struct connection *c) {
  if (c->size + 65536 > c->room && !(c->answer = realloc(c->answer, c->room = 2 * c->room + 65537))) fail("memory");
  ssize_t got = recv(c->socket, c->answer + c->size, 65536, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0 || !c->asked) {
    lost(c);
    return;
  }
  c->answer[c->size += got] = 0;
  char *body = strstr(c->answer, "\r\n\r\n");
  size_t end = body ? whole(c, body) : 0;
  if (!end || c->size < end) return;
  tell(c->request, atoi(c->answer + 9), c->due, c->answer, end);
  if (header(c, body, "\nconnection: close")) hang_up(c);
  under_way--;
  freed(c);
}

static void get(void *into, size_t size) {
  if (fread(into, 1, size, stdin) != size) fputs("the plan ends too soon\n", stderr), exit(2);
}

static void read_plan(void) {
  get(&message_count, sizeof message_count);
  messages = calloc(message_count, sizeof *messages);
  for (uint32_t i = 0; messages && i < message_count; i++) {
    get(&messages[i].size, sizeof messages[i].size);
    if (!(messages[i].bytes = malloc(messages[i].size))) fail("memory");
    get(messages[i].bytes, messages[i].size);
  }
  get(&request_count, sizeof request_count);
  requests = calloc(request_count, sizeof *requests);
  if (!messages || !requests) fail("memory");
  for (uint32_t i = 0; i < request_count; i++) {
    get(&requests[i].due, sizeof requests[i].due);
    get(&requests[i].message, sizeof requests[i].message);
    if (requests[i].message >= message_count) fputs("no such message\n", stderr), exit(2);
  }
}

int main(int count, char **words) {
  if (count != 5 || (strcmp(words[1], "open") && strcmp(words[1], "closed")))
    return fputs("load open|closed PORT CONNECTIONS SECONDS < PLAN > ANSWERS\n", stderr), 2;
  int closed = !strcmp(words[1], "closed"), most = atoi(words[3]);
  double end = atof(words[4]);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  connections = calloc(most, sizeof *connections);
  free_ones = calloc(most, sizeof *free_ones);
  poller = epoll_create1(0);
  if (!connections || !free_ones || poller < 0) fail("start");
  for (int i = most; i--; free_ones[free_count++] = &connections[i]) connections[i].socket = -1;
  read_plan();
  struct epoll_event events[EVENTS];
  start = now();
  uint32_t next = 0;
  double t = 0;
  for (;;) {
    int more = request_count && (closed || next < request_count) && t < end;
    if (!more && (!under_way || t > end + 10)) break;
    if (closed && more) {
      for (int idle = free_count; idle--; next = (next + 1) % request_count) begin(next, now());
    } else if (more) {
      for (int sent = 0; next < request_count && requests[next].due <= t && sent < BURST; sent++, next++)
        begin(next, requests[next].due);
    }
    int waiting = !closed && more && next < request_count && requests[next].due <= now();
    int found = epoll_wait(poller, events, EVENTS, waiting ? 0 : 1);
    for (int i = 0; i < found; i++) {
      struct connection *c = events[i].data.ptr;
      if (c->socket < 0) continue;
      if (events[i].events & EPOLLOUT) { /* connected, or not */
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->socket, &event);
        ask(c);
      } else {
        receive(c);
      }
    }
    t = now();
  }
  for (int i = 0; i < most; i++)
    if (connections[i].asked) tell(connections[i].request, 0, connections[i].due, NULL, 0);
  return fwrite(told, 1, told_size, stdout) == told_size ? 0 : 1;
}
