// A server of WASI 0.1: it accepts on descriptor 3, which it finds open if its container declares a TCP port, says
// how many have come and what was asked, and ends when it is told to.

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LISTENER = 3 };

int main(void) {
  // Directories are found behind the listeners.
  FILE *count = fopen("/tmp-count", "w");
  if (!count) return 2;
  printf("listening on %s\n", getenv("LISTEN_FDS"));
  fflush(stdout);
  for (int number = 1;; number++) {
    struct pollfd listener = {.fd = LISTENER, .events = POLLIN};
    poll(&listener, 1, -1);
    int client = accept(LISTENER, NULL, NULL);
    if (client < 0) {
      printf("accept: %s\n", strerror(errno));
      return errno == EINVAL ? 0 : 1;
    }
    char question[512], answer[600];
    ssize_t length = recv(client, question, sizeof question - 1, 0);
    if (length >= 0) {
      question[length] = 0;
      question[strcspn(question, "\r\n")] = 0;
      int size = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\n\r\n%d: %s\n", number, question);
      send(client, answer, (size_t)size, 0);
      fprintf(count, "%d\n", number);
    }
    shutdown(client, SHUT_RDWR);
    close(client);
  }
}
