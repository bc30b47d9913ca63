/* RULER's tasks (arXiv 2404.06654): its needles, chains, lists and papers. The instructions around them are our own. */
#include "gen_niah.h"
#include "gen_qa.h"

static const niah_how single_1 = {GEN_NOISE, NIAH_WORDS, NIAH_NUMBERS, 1, 1, 1, 0},
                      single_2 = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 1, 1, 1, 0},
                      single_3 = {GEN_ESSAY, NIAH_WORDS, NIAH_UUIDS, 1, 1, 1, 0},
                      multikey_1 = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 1, 1, 1, 3},
                      multikey_2 = {GEN_LINES, NIAH_WORDS, NIAH_NUMBERS, 1, 1, 1, 0},
                      multikey_3 = {GEN_LINES, NIAH_UUIDS, NIAH_UUIDS, 1, 1, 1, 0},
                      multivalue = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 1, 1, 4, 0},
                      multiquery = {GEN_ESSAY, NIAH_WORDS, NIAH_NUMBERS, 1, 4, 1, 0};
static const vt_how one_chain = {1, 4};
static const int one_paragraph = 1, several_paragraphs = 2;

const gen_task gen_ruler[] = {
    {"niah_single_1", "a number in repeated sentences", niah_build, GEN_ALL, 128, 90, 1, 0, &single_1},
    {"niah_single_2", "a number in running text", niah_build, GEN_ALL, 128, 1, 64, GEN_TEXT, &single_2},
    {"niah_single_3", "a UUID in running text", niah_build, GEN_ALL, 128, 1, 64, GEN_TEXT, &single_3},
    {"niah_multikey_1", "a number, among those of four keys", niah_build, GEN_ALL, 128, 1, 64, GEN_TEXT, &multikey_1},
    {"niah_multikey_2", "a number, all lines being needles", niah_build, GEN_ALL, 128, 66, 1, 0, &multikey_2},
    {"niah_multikey_3", "a UUID for a UUID, all lines being needles", niah_build, GEN_ALL, 128, 112, 1, 0, &multikey_3},
    {"niah_multivalue", "four numbers of one key", niah_build, GEN_ALL, 128, 1, 64, GEN_TEXT, &multivalue},
    {"niah_multiquery", "numbers of four keys in one question", niah_build, GEN_ALL, 128, 1, 64, GEN_TEXT, &multiquery},
    {"vt", "a chain of five variables in repeated sentences", vt_build, GEN_ALL, 30, 90, 1, 0, &one_chain},
    {"cwe", "the ten most common words of a list", cwe_build, GEN_ALL, 120, 16, 2, 0, NULL},
    {"fwe", "the three most frequent coded words", fwe_build, GEN_ALL, 50, 7, 80, 0, NULL},
    {"qa_1", "a question about one of many paragraphs", qa_build, GEN_ANY, 32, 400, 1, GEN_PARAGRAPHS, &one_paragraph},
    {"qa_2", "a question about several of many paragraphs", qa_build, GEN_ANY, 32, 400, 2, GEN_PARAGRAPHS,
     &several_paragraphs},
    {0},
};
