// What C programs expect of files, directories, times and waiting, as WASI 0.1 gives it to them. Ends with 42.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MUST(condition)                                                                        \
  do {                                                                                         \
    if (!(condition)) {                                                                        \
      printf("line %d: %s (%s)\n", __LINE__, #condition, strerror(errno));                     \
      exit(1);                                                                                 \
    }                                                                                          \
  } while (0)

static char text[256];
static struct stat status;

static void streams(void) {
  FILE *file = fopen("/desk/a.txt", "w");
  MUST(file);
  for (int line = 0; line < 10000; line++) MUST(fprintf(file, "line %d\n", line) > 0);
  MUST(fclose(file) == 0);
  MUST(stat("/desk/a.txt", &status) == 0 && S_ISREG(status.st_mode) && status.st_size == 98890);

  file = fopen("desk/a.txt", "a+");
  MUST(file && fputs("end\n", file) >= 0 && fseek(file, -4, SEEK_END) == 0);
  MUST(fgets(text, sizeof text, file) && !strcmp(text, "end\n"));
  fclose(file);

  file = fopen("/desk/a.txt", "r+");
  MUST(file && fseek(file, 5, SEEK_SET) == 0 && fputc('X', file) == 'X');
  rewind(file);
  MUST(fgets(text, sizeof text, file) && !strcmp(text, "line X\n"));
  fclose(file);
}

static void names(void) {
  MUST(open("/desk/a.txt", O_CREAT | O_EXCL | O_WRONLY, 0644) == -1 && errno == EEXIST);
  MUST(open("/none", O_RDONLY) == -1 && errno == ENOENT);
  MUST(open("/desk", O_WRONLY) == -1 && errno == EISDIR);
  MUST(symlink("a.txt", "/desk/link") == 0 && readlink("/desk/link", text, sizeof text) == 5);
  MUST(lstat("/desk/link", &status) == 0 && S_ISLNK(status.st_mode));
  MUST(link("/desk/a.txt", "/desk/hard") == 0 && stat("/desk/hard", &status) == 0 && status.st_nlink == 2);
  MUST(rename("/desk/a.txt", "/desk/b.txt") == 0);
  MUST(rmdir("/desk") == -1 && errno == ENOTEMPTY);
  MUST(chdir("/desk") == 0 && access("b.txt", R_OK) == 0 && access("a.txt", F_OK) == -1);
}

// Removes what it lists, as `rm -r` does, then goes back in the listing.
static void directories(void) {
  for (int number = 0; number < 500; number++) {
    snprintf(text, sizeof text, "/desk/a-longer-name-%d", number);
    int file = open(text, O_CREAT | O_WRONLY | O_EXCL, 0644);
    MUST(file >= 0 && close(file) == 0);
  }
  DIR *directory = opendir("/desk");
  MUST(directory);
  int entries = 0;
  struct dirent *entry;
  while ((entry = readdir(directory))) {
    entries++;
    if (!strncmp(entry->d_name, "a-longer", 8)) MUST(unlinkat(dirfd(directory), entry->d_name, 0) == 0);
  }
  MUST(entries == 505);
  rewinddir(directory);
  for (entries = 0; readdir(directory); entries++) {
  }
  MUST(entries == 5);
  rewinddir(directory);
  readdir(directory);
  long second = telldir(directory);
  entry = readdir(directory);
  strcpy(text, entry->d_name);
  readdir(directory);
  seekdir(directory, second);
  entry = readdir(directory);
  MUST(!strcmp(entry->d_name, text));
  closedir(directory);
}

static void descriptors(void) {
  struct timespec times[2] = {{1000, 5}, {2000, 7}};
  MUST(utimensat(AT_FDCWD, "b.txt", times, 0) == 0 && stat("b.txt", &status) == 0);
  MUST(status.st_mtim.tv_sec == 2000 && status.st_mtim.tv_nsec == 7 && status.st_atim.tv_sec == 1000);
  MUST(truncate("b.txt", 10) == 0 && stat("b.txt", &status) == 0 && status.st_size == 10);
  int file = open("b.txt", O_RDWR);
  MUST(posix_fallocate(file, 0, 100) == 0 && fstat(file, &status) == 0 && status.st_size == 100);
  MUST(pwrite(file, "zz", 2, 50) == 2 && pread(file, text, 2, 50) == 2 && text[0] == 'z');
  MUST((fcntl(file, F_GETFL) & O_ACCMODE) == O_RDWR);
  MUST(fcntl(file, F_SETFL, O_APPEND) == 0 && (fcntl(file, F_GETFL) & O_APPEND));
  MUST(fsync(file) == 0 && close(file) == 0 && close(file) == -1 && errno == EBADF);
  MUST(!isatty(0) && !isatty(1) && getentropy(text, sizeof text) == 0);
}

static void waiting(void) {
  struct timespec before, after;
  MUST(clock_gettime(CLOCK_MONOTONIC, &before) == 0 && usleep(2000) == 0);
  MUST(clock_gettime(CLOCK_MONOTONIC, &after) == 0);
  long long slept = (after.tv_sec - before.tv_sec) * 1000000000LL + (after.tv_nsec - before.tv_nsec);
  MUST(slept >= 2000000);
  struct pollfd both[2] = {{.fd = 0, .events = POLLIN}, {.fd = 1, .events = POLLOUT}};
  MUST(poll(both, 2, -1) == 2 && both[0].revents && both[1].revents);
  MUST(time(NULL) > 1700000000);
}

int main(int argc, char **argv) {
  printf("%d arguments, the last is %s, HOME is %s\n", argc, argv[argc - 1], getenv("HOME"));
  MUST(mkdir("/desk", 0777) == 0);
  streams();
  names();
  directories();
  descriptors();
  waiting();
  MUST(unlink("b.txt") == 0 && unlink("hard") == 0 && unlink("link") == 0 && rmdir("/desk") == 0);
  puts("all well");
  return 42;
}
