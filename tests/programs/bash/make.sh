# status: 4
# needs: /usr/bin/make
cd "$(mktemp -d)" || exit 1
printf 'int four(void) { return 4; }\n' >four.c
printf 'int four(void);\nint main(void) { return four(); }\n' >main.c
printf 'program: main.o four.o\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -O1 -c $<\n' >Makefile
make -j2 -s && ls && ./program
