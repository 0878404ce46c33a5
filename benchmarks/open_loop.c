/* An open-loop load over HTTP/1.1 on loopback that takes little CPU itself:
 *
 *     open_loop PORT RATE SECONDS CONNECTIONS < REQUEST > ANSWERS
 *
 * REQUEST is one whole request. Arrivals are Poisson and never wait for answers: each takes an idle connection, else opens
 * another, up to CONNECTIONS. One line for each arrival: the status (0: no connection was left, or it was lost), microseconds
 * from when the request was due to its answer, and 1 where the answer has `retry-after`. Ends when all are answered, at the
 * latest 10 s after the last arrival. What it was late with sending counts as time, too.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 8192, EVENTS = 256, BURST = 64 };

struct connection {
  int socket;
  int asked; /* a request is on its way */
  double due;
  size_t size;
  char answer[ROOM];
};

static char request[65536];
static size_t request_size;
static struct sockaddr_in server;
static struct connection *connections, **idle;
static int most, opened, free_ones, under_way, poller;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void tell(int status, double due, int retry_after) {
  printf("%d %.0f %d\n", status, (now() - due) * 1e6, retry_after);
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void lost(struct connection *c) {
  close(c->socket);
  c->socket = -1;
  if (c->asked) tell(0, c->due, 0), under_way--;
  c->asked = 0;
}

static void ask(struct connection *c) {
  if (send(c->socket, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) lost(c);
}

/* An arrival. */
static void arrive(double due) {
  struct connection *c = NULL;
  while (free_ones && !c)
    if ((c = idle[--free_ones])->socket < 0) c = NULL; /* closed meanwhile */
  if (c) {
    c->asked = 1, c->due = due, under_way++;
    ask(c);
    return;
  }
  if (opened == most) {
    tell(0, due, 0);
    return;
  }
  c = &connections[opened++];
  int yes = 1;
  c->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->socket < 0) fail("socket");
  setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (connect(c->socket, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS) fail("connect");
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->socket, &event);
  c->asked = 1, c->due = due, under_way++;
}

/* What has come in answers the request, once it is whole. */
static void receive(struct connection *c) {
  ssize_t got = recv(c->socket, c->answer + c->size, ROOM - 1 - c->size, 0);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    lost(c);
    return;
  }
  c->answer[c->size += got] = 0;
  char *body = strstr(c->answer, "\r\n\r\n");
  if (!body) return;
  char *length = strcasestr(c->answer, "content-length:");
  if (!length) fail("an answer without content-length");
  if (c->answer + c->size < body + 4 + atol(length + 15)) return;
  char *after = strcasestr(c->answer, "retry-after:");
  tell(atoi(c->answer + 9), c->due, after && after < body);
  c->size = 0, c->asked = 0, under_way--;
  idle[free_ones++] = c;
}

int main(int count, char **words) {
  if (count != 5) return fputs("open_loop PORT RATE SECONDS CONNECTIONS < REQUEST > ANSWERS\n", stderr), 2;
  double rate = atof(words[2]), seconds = atof(words[3]);
  most = atoi(words[4]);
  request_size = fread(request, 1, sizeof request, stdin);
  server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  connections = calloc(most, sizeof *connections);
  idle = calloc(most, sizeof *idle);
  poller = epoll_create1(0);
  if (!connections || !idle || poller < 0) fail("start");
  static char written[1 << 20];
  setvbuf(stdout, written, _IOFBF, sizeof written);
  srand48(time(NULL));
  struct epoll_event events[EVENTS];
  double start = now(), due = start, end = start + seconds;
  while (due < end || (under_way && now() < end + 10)) {
    for (int sent = 0; due < end && due <= now() && sent < BURST; sent++) {
      arrive(due);
      due -= log(1 - drand48()) / rate;
    }
    int found = epoll_wait(poller, events, EVENTS, due < end && due <= now() ? 0 : 1);
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
  }
  for (int i = 0; i < opened; i++)
    if (connections[i].asked) tell(0, connections[i].due, 0);
  return 0;
}
