"""Tiny random models, a tokenizer of whole words for them, and LoRA adapters whose B is not zero."""
import shutil

import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import common

VOCAB = 101
EOS, PAD = 1, 2


def draw(shape, generator, std=1.0):
    return torch.randn(shape, generator=generator) * std


@torch.no_grad()
def fill(model, seed, std=0.3):
    """Weights and biases from N(0, std²), norm weights from N(1, 0.2²): wide enough that logits differ clearly."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        norm = name.endswith("norm.weight")
        parameter.copy_(draw(parameter.shape, generator, 0.2 if norm else std) + (1.0 if norm else 0.0))
    return model.eval()


def training_model(seed=11):
    """The Llama of the training fixtures: untied, 4 heads on 2 key/value heads, hidden 16."""
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=4, max_position_embeddings=64,
                         rms_norm_eps=1e-5, tie_word_embeddings=False, attention_dropout=0.0,
                         rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                         bos_token_id=0, eos_token_id=EOS, pad_token_id=PAD)
    return fill(LlamaForCausalLM(config), seed)


def tokenizer():
    """Whole words `w3` … `w100` for ids 3 … 100; ids 0, 1, 2 are <bos>, <eos>, <pad>. No template."""
    special = ["<bos>", "<eos>", "<pad>"]
    words = special + [f"w{i}" for i in range(len(special), VOCAB)]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def words(ids):
    return " ".join(f"w{i}" for i in ids)


@torch.no_grad()
def randomise_adapter(model, seed, std=0.15):
    """Both LoRA matrices from N(0, std²), in name order, so that the adapter changes the output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_A." in name or ".lora_B." in name:
            parameter.copy_(draw(parameter.shape, generator, std))


def adapter_state(model, what=lambda parameter: parameter):
    """The adapter's matrices under the names of adapter_model.safetensors; `what` picks value or gradient."""
    return {name.replace(".default.weight", ".weight"): what(parameter).detach().clone()
            for name, parameter in sorted(model.named_parameters()) if ".lora_" in name and ".default." in name}


def lora_config(**changes):
    """Rank 4, alpha 8, every linear layer except the head, no dropout."""
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.0,
                         "task_type": "CAUSAL_LM", **changes})


def save_adapter(model, path):
    """A PEFT directory: adapter_config.json and adapter_model.safetensors, without the model card."""
    shutil.rmtree(path, ignore_errors=True)
    config = model.peft_config["default"]
    config.base_model_name_or_path = "model"
    # A set in the configuration would be written in an order that changes from run to run.
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    model.save_pretrained(path)
    for file in list(path.iterdir()):
        if file.name == "README.md":
            file.unlink()
        else:
            common.check_size(file)


def save_model(model, path):
    """A Hugging Face directory of the tiny model itself; to be called before an adapter is put into it."""
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)
    for file in path.iterdir():
        common.check_size(file)


def completion_logps(model, prompt, completion, temperature=1.0):
    """Log-probability of every completion token (fp32), one sequence at a time: the definition itself."""
    ids = torch.tensor([prompt + completion])
    logits = model(ids).logits[0].float() / temperature
    positions = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logits[positions].log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
