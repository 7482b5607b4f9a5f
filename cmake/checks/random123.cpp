#include <Random123/philox.h>
int main() { return r123::Philox4x32()({{1}}, {{2}})[0] == 0; }
